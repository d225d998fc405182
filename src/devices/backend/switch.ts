// An Ethernet switch for the machines of this process: it learns who is where, and floods what it does not know.
// IEEE 802.1D §7.7 (the forwarding process), §7.8 (the learning process).
import { ETHERNET_HEADER, isGroup, macKey, SOURCE_ADDRESS } from './ethernet.js';
import type { NetBackend, NetLink } from './net-backend.js';

export interface SwitchOptions {
  /** Frames that wait for a guest without room; more are dropped. Default 256. */
  readonly queueFrames?: number;
  /** Addresses that are remembered of one port, so that no guest makes the switch forget the others'. Default 256. */
  readonly portAddresses?: number;
}

export class EthernetSwitch {
  readonly #ports = new Set<Port>();
  /** Address → where it sent from last. */
  readonly #addresses = new Map<number, Port>();
  readonly #options: Required<SwitchOptions>;

  constructor({ queueFrames = 256, portAddresses = 256 }: SwitchOptions = {}) {
    this.#options = { queueFrames, portAddresses };
  }

  /** A socket for one more network card. It is plugged in when the card's machine is made, and out when that ends. */
  port(): NetBackend {
    return new Port(this.#options, {
      plugIn: (port) => void this.#ports.add(port),
      plugOut: (port) => this.#plugOut(port),
      forward: (frame, from) => this.#forward(frame, from),
    });
  }

  /** Ports that are plugged in. */
  get size(): number {
    return this.#ports.size;
  }

  /** Addresses that are known. */
  get addresses(): number {
    return this.#addresses.size;
  }

  #plugOut(port: Port): void {
    this.#ports.delete(port);
    for (const address of port.addresses) this.#addresses.delete(address);
    port.addresses.clear();
  }

  #forward(frame: Uint8Array, from: Port): void {
    if (!isGroup(frame, SOURCE_ADDRESS)) this.#learn(macKey(frame, SOURCE_ADDRESS), from);
    const to = isGroup(frame) ? undefined : this.#addresses.get(macKey(frame, 0));
    if (to === undefined) {
      for (const port of this.#ports) if (port !== from) port.deliver(frame);
    } else if (to !== from) to.deliver(frame);
  }

  #learn(address: number, port: Port): void {
    const known = this.#addresses.get(address);
    if (known === port) return;
    known?.addresses.delete(address);
    const [oldest] = port.addresses;
    if (oldest !== undefined && port.addresses.size >= this.#options.portAddresses) {
      port.addresses.delete(oldest);
      this.#addresses.delete(oldest);
    }
    port.addresses.add(address);
    this.#addresses.set(address, port);
  }
}

interface Fabric {
  plugIn(port: Port): void;
  plugOut(port: Port): void;
  forward(frame: Uint8Array, from: Port): void;
}

class Port implements NetBackend {
  /** In the order in which they were learnt. */
  readonly addresses = new Set<number>();
  readonly #fabric: Fabric;
  readonly #limit: number;
  #queue: Uint8Array[] = [];
  #link: NetLink | undefined;
  #dropped = 0;

  constructor({ queueFrames }: Required<SwitchOptions>, fabric: Fabric) {
    this.#limit = queueFrames;
    this.#fabric = fabric;
  }

  open(link: NetLink): void {
    if (this.#link !== undefined) throw new Error('a port of a switch is for one network card; ask for one more port');
    this.#link = link;
    this.#fabric.plugIn(this);
  }

  send(frame: Uint8Array): void {
    if (frame.length >= ETHERNET_HEADER) this.#fabric.forward(frame, this);
  }

  /** As a switch does: what finds no room is dropped, and its sender does not wait. */
  deliver(frame: Uint8Array): void {
    if (this.#queue.length === 0 && this.#link?.receive(frame) === true) return;
    if (this.#queue.length < this.#limit) this.#queue.push(frame.slice());
    else this.#dropped++;
  }

  resume(): void {
    const waiting = this.#queue;
    const taken = waiting.findIndex((frame) => this.#link?.receive(frame) === false);
    this.#queue = taken < 0 ? [] : waiting.slice(taken);
  }

  close(): void {
    this.#queue = [];
    this.#fabric.plugOut(this);
  }

  counters(): Readonly<Record<string, number>> {
    return { switchDropped: this.#dropped };
  }
}
