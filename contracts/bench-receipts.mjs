// SPDX-License-Identifier: Apache-2.0
// The same batch with @ton/core, for scripts/bench-receipts: node bench-receipts.mjs COUNT ROUNDS INDEX, JSON out.
import { createHash } from 'node:crypto';
import { beginCell, Cell, Dictionary } from '@ton/core';

const [count, rounds, index] = process.argv.slice(2).map(Number);
const seconds = (from) => Number(process.hrtime.bigint() - from) / 1e9;
const median = (all) => all.sort((a, b) => a - b)[Math.floor(all.length / 2)];

const receipt = (n) => {
    const number = Buffer.alloc(8);
    number.writeBigUInt64BE(BigInt(n));
    const digest = createHash('sha256').update(number).digest();
    return beginCell().storeBuffer(number).storeBuffer(digest).storeRef(beginCell().storeUint(n, 32)).endCell();
};

let start = process.hrtime.bigint();
const batch = Dictionary.empty(Dictionary.Keys.Uint(32), Dictionary.Values.Cell());
for (let n = 0; n < count; n++) batch.set(n, receipt(n));
const receipts = seconds(start);

start = process.hrtime.bigint();
const tree = beginCell().storeDictDirect(batch).endCell();
const root = tree.hash().toString('hex');
const rootSeconds = seconds(start);

let proof;
const making = [], checking = [];
for (let round = 0; round < rounds; round++) {
    start = process.hrtime.bigint();
    proof = batch.generateMerkleProof([index]).toBoc({ idx: false, crc32: false });
    making.push(seconds(start));
}
for (let round = 0; round < 20 * rounds; round++) {
    start = process.hrtime.bigint();
    const shown = Cell.fromBoc(proof)[0].beginParse(true);
    if (shown.loadUint(8) !== 3) throw new Error('no Merkle proof');
    const below = shown.loadRef();
    if (below.hash(0).toString('hex') !== root) throw new Error('another root');
    const found = Dictionary.loadDirect(Dictionary.Keys.Uint(32), Dictionary.Values.Cell(), below).get(index);
    if (!found.hash(0).equals(receipt(index).hash())) throw new Error('another receipt');
    checking.push(seconds(start));
}
process.stdout.write(JSON.stringify({
    receipts_s: receipts, root_s: rootSeconds, prove_s: median(making), check_s: median(checking), root,
    proof: proof.toString('hex'), peak_mib: Math.round(process.resourceUsage().maxRSS / 1024),
}) + '\n');
