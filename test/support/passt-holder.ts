// A process that holds a passt and says its id, for the test that kills the holder.
import { readFileSync } from 'node:fs';
import { PasstBackend } from '../../src/devices/backend/passt.js';

const backend = new PasstBackend();
await backend.open({
  mac: Uint8Array.of(2, 0, 0, 0, 0, 1),
  receive: () => true,
  ready: () => undefined,
  setLinkUp: () => undefined,
  warn: () => undefined,
});
process.stdout.write(readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8'));
setInterval(() => undefined, 1000);
