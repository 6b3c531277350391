// SPDX-License-Identifier: Apache-2.0
// Compiles registry.tolk and prints JSON: the code as a bag of cells (base64), its hash, the compiler's version.
// Started by scripts/contract.
import { readFileSync } from 'node:fs';
import { getTolkCompilerVersion, runTolkCompiler } from '@ton/tolk-js';

const source = readFileSync(new URL('registry.tolk', import.meta.url), 'utf8');
const done = await runTolkCompiler({ entrypointFileName: 'registry.tolk', fsReadCallback: () => source });
if (done.status === 'error') {
    process.stderr.write(done.message + '\n');
    process.exit(1);
}
const out = { boc: done.codeBoc64, hash: done.codeHashHex, version: await getTolkCompilerVersion() };
process.stdout.write(JSON.stringify(out) + '\n');
