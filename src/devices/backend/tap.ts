// A TAP interface as a network: the host's kernel is at the other end of the cable.
// Linux Documentation/networking/tuntap.rst; frames have a virtio_net_hdr in front (IFF_VNET_HDR).
import type { TapWatcher } from '../../kvm/tap-fd.js';
import { NET_HEADER } from '../virtio/net-header.js';
import { FRAME_MAX } from './ethernet.js';
import type { NetBackend, NetLink, Offloads } from './net-backend.js';
import { TapInterfaces, type AttachedTap } from './tap-interface.js';

/** Frames that one turn of the event loop reads. */
const TURN = 64;
/** How often a TAP that is gone is looked for. */
const LOOK_AGAIN_MS = 500;
/** MTU of which a guest need not be told. */
const ETHERNET_MTU = 1500;

/** errno of a TAP that is gone (EBADFD), and of uv_poll in that case (EBADF, ENODEV). */
const GONE: ReadonlySet<number> = new Set([-77, -9, -19]);

export class TapBackend implements NetBackend {
  declare readonly mtu?: number;
  readonly #name: string;
  readonly #interfaces: TapInterfaces;
  readonly #buffer = new Uint8Array(NET_HEADER + FRAME_MAX);
  #attached: AttachedTap | undefined;
  #watcher: TapWatcher | undefined;
  #link: NetLink | undefined;
  #offloads: Offloads = { checksum: false, tso4: false, tso6: false };
  #timer: NodeJS.Timeout | undefined;
  /** Length of a frame in the buffer for which the guest had no room; 0 without. */
  #kept = 0;
  readonly #counters = { tapRefused: 0, tapLost: 0 };

  private constructor(name: string, interfaces: TapInterfaces, attached: AttachedTap) {
    this.#name = name;
    this.#interfaces = interfaces;
    this.#attached = attached;
    const mtu = interfaces.mtu(name);
    if (mtu !== undefined && mtu !== ETHERNET_MTU) this.mtu = mtu;
  }

  /**
   * Uses the TAP of this network namespace, or makes it, which takes CAP_NET_ADMIN.
   * @throws TapError
   */
  static async create(name: string): Promise<TapBackend> {
    const interfaces = await TapInterfaces.load();
    return new TapBackend(name, interfaces, interfaces.attach(name));
  }

  open(link: NetLink): void {
    this.#link = link;
    this.#watch();
  }

  send(frame: Uint8Array): void {
    // EIO: nobody has brought the interface up. Whatever it is, it is the network that loses a frame.
    const result = this.#attached?.tap.write(frame) ?? 0;
    if (result >= 0) return;
    this.#counters.tapRefused++;
    if (GONE.has(result)) this.#lose();
  }

  resume(): void {
    if (this.#kept > 0 && !this.#give(this.#kept)) return;
    this.#kept = 0;
    this.#watcher?.resume();
  }

  setOffloads(taken: Offloads): void {
    this.#offloads = taken;
    this.#attached?.setOffloads(taken);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#link = undefined;
    this.#release();
  }

  counters(): Readonly<Record<string, number>> {
    return this.#counters;
  }

  #watch(): void {
    this.#watcher = this.#attached?.tap.onReadable((status) => this.#onReadable(status));
  }

  #onReadable(status: number): void {
    if (status < 0) {
      this.#lose();
      return;
    }
    for (let n = 0; n < TURN && this.#attached !== undefined; n++) {
      const length = this.#attached.tap.read(this.#buffer);
      if (length === 0) return;
      if (length < 0) {
        if (GONE.has(length)) this.#lose();
        return;
      }
      if (this.#give(length)) continue;
      // The kernel keeps what comes, and drops what is too much.
      this.#kept = length;
      this.#watcher?.pause();
      return;
    }
  }

  #give(length: number): boolean {
    return this.#link?.receive(this.#buffer.subarray(0, length)) ?? true;
  }

  #release(): void {
    this.#watcher?.close();
    this.#attached?.close();
    this.#watcher = this.#attached = undefined;
    this.#kept = 0;
  }

  #lose(): void {
    const link = this.#link;
    if (this.#attached === undefined || link === undefined) return;
    this.#counters.tapLost++;
    this.#release();
    link.setLinkUp(false);
    link.warn(`the TAP ${this.#name} is gone; the guest's cable is out until it is back`);
    this.#lookAgain();
  }

  #lookAgain(): void {
    this.#timer = setTimeout(() => {
      // Whoever deleted it wants it gone: it is not made here, but found when somebody made it.
      if (this.#link === undefined) return;
      try {
        if (!this.#interfaces.exists(this.#name)) throw new Error('not there yet');
        this.#attached = this.#interfaces.attach(this.#name);
        this.#attached.setOffloads(this.#offloads);
      } catch {
        this.#lookAgain();
        return;
      }
      this.#watch();
      this.#link.setLinkUp(true);
    }, LOOK_AGAIN_MS);
    this.#timer.unref();
  }
}
