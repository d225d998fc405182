// A process that restores a snapshot and saves it again and again into the same folder, until it is killed.
import { restoreVm } from '../../src/index.js';

const directory = process.argv[2] ?? '';
const vm = await restoreVm(directory);
process.stdout.write('saving\n');
for (;;) await vm.snapshot(directory);
