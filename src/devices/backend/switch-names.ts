// Switches by name, for `--net switch=NAME`: the one thing that machines of a process share without being told of it.
// Our own. Whoever writes a program makes an EthernetSwitch and hands out its ports.
import type { NetBackend, NetLink } from './net-backend.js';
import { EthernetSwitch } from './switch.js';

/** A switch lives from its first port to its last. */
export class SwitchNames {
  readonly #switches = new Map<string, EthernetSwitch>();

  /** A port of the switch with this name, which is made if need be when the port is opened. */
  port(name: string): NetBackend {
    let inner: NetBackend | undefined;
    return {
      open: (link: NetLink) => {
        const found = this.#switches.get(name) ?? new EthernetSwitch();
        this.#switches.set(name, found);
        inner = found.port();
        return inner.open(link);
      },
      send: (frame) => inner?.send(frame),
      resume: () => inner?.resume?.(),
      close: async () => {
        await inner?.close();
        if (this.#switches.get(name)?.size === 0) this.#switches.delete(name);
      },
      counters: () => inner?.counters?.() ?? {},
    };
  }

  get size(): number {
    return this.#switches.size;
  }
}
