// A network of your own in ten lines: a mirror. Every packet comes back with sender and receiver swapped.
// createVm({ …, nets: [{ backend: echoNetwork() }] }); a ping to anybody in there is answered, by the guest itself.
import type { NetBackend, NetLink } from '../src/index.js';

export function echoNetwork(): NetBackend {
  let guest: NetLink | undefined;
  return {
    open: (link) => void (guest = link),
    send(frame) {
      const part = (from: number, to?: number): Uint8Array => frame.subarray(from, to);
      // Ethernet: destination, source, type. IPv4: … source, destination …
      guest?.receive(Buffer.concat([part(6, 12), part(0, 6), part(12, 26), part(30, 34), part(26, 30), part(34)]));
    },
    close: () => undefined,
  };
}
