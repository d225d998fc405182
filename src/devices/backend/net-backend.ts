// What stands behind a network card: Ethernet frames in, Ethernet frames out. Write your own: examples/echo-network.ts.
// IEEE 802.3 (frames, from the destination address on, without the check sequence).

/**
 * The host's side of one virtio-net device, on the owner's event loop. `open` is called once, then `close` once, also
 * when `open` failed; the others only between them.
 */
export interface NetBackend {
  /** May take its time; the machine is made when it is done. @throws when there can be no network */
  open(link: NetLink): void | Promise<void>;
  /**
   * The guest sends a frame. Its bytes are good until this returns: copy what is to stay.
   * @returns false when it was not taken; it will be sent again after `link.ready()`
   */
  send(frame: Uint8Array): boolean | void;
  /** The guest has room for frames again, after `link.receive` answered false. */
  resume?(): void;
  close(): void | Promise<void>;
  /** Largest packet of the network without Ethernet's header, when the guest should be told (68 to 65535). */
  readonly mtu?: number;
  /**
   * A backend that has this checks sums and cuts segments: all its frames, both ways, have a virtio_net_hdr of 12 bytes
   * in front. It is called with what the driver takes, before the first frame and after every reset.
   */
  setOffloads?(taken: Offloads): void;
  /** For the machine's report. */
  counters?(): Readonly<Record<string, number>>;
}

/** The device's side, which a backend gets when it is opened. */
export interface NetLink {
  /** The guest's address, 6 bytes. */
  readonly mac: Uint8Array;
  /**
   * A frame for the guest; it is copied.
   * @returns false when the guest has no room: the frame is lost, unless it is tried again after `resume()`
   */
  receive(frame: Uint8Array): boolean;
  /** After `send` answered false: the next frame is welcome. */
  ready(): void;
  /** Plugs the cable in or out; it is in at the start. */
  setLinkUp(isUp: boolean): void;
  /** One line for the machine's owner. */
  warn(message: string): void;
}

/** What may come to the guest unfinished. VIRTIO 1.2 §5.1.3. */
export interface Offloads {
  /** Packets without their checksum. */
  readonly checksum: boolean;
  /** TCP segments larger than the network's. */
  readonly tso4: boolean;
  readonly tso6: boolean;
}
