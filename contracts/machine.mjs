// SPDX-License-Identifier: Apache-2.0
// The process that runs @ton/sandbox's virtual machine: JSON lines in, JSON lines out. Started by tests/ton_tvm.py.
import { createInterface } from 'node:readline';
import { Cell, Address, loadShardAccount, storeShardAccount, beginCell } from '@ton/core';
import { Executor } from '@ton/sandbox';

const ADDRESS = new Address(0, Buffer.alloc(32));
let config = '';

const item = (given) => {
    if ('int' in given) return { type: 'int', value: BigInt(given.int) };
    const cell = Cell.fromBase64(given.cell ?? given.slice);
    return { type: 'cell' in given ? 'cell' : 'slice', cell };
};

async function answer(executor, job) {
    if (job.do === 'configure') {
        config = job.config;
        return {};
    }
    if (job.do === 'transact') {
        const done = await executor.runTransaction({
            config, libs: null, verbosity: 'short', shardAccount: job.account, message: Cell.fromBase64(job.message),
            now: job.now, lt: BigInt(job.lt), randomSeed: Buffer.alloc(32), ignoreChksig: false, debugEnabled: false,
        });
        if (!done.result.success) return { error: done.result.error };
        return { transaction: done.result.transaction, account: done.result.shardAccount };
    }
    const done = await executor.runGetMethod({
        code: Cell.fromBase64(job.code), data: Cell.fromBase64(job.data), methodId: job.methodId, stack: job.stack.map(item),
        config, verbosity: 'short', address: ADDRESS, unixTime: job.now, balance: BigInt(job.balance),
        randomSeed: Buffer.alloc(32), gasLimit: 10000000n, debugEnabled: false,
    });
    const { success, vm_exit_code, gas_used, stack, error } = done.output;
    if (!success) return { error };
    return { exit: vm_exit_code, gas: Number(gas_used), stackBoc: stack };
}

const executor = await Executor.create();
for await (const line of createInterface({ input: process.stdin })) {
    let out;
    try {
        out = await answer(executor, JSON.parse(line));
    } catch (e) {
        out = { error: String(e) };
    }
    process.stdout.write(JSON.stringify(out) + '\n');
}
