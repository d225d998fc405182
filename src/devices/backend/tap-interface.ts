// A TAP interface of the host by name: found or made, attached to, and asked for its MTU.
// Linux Documentation/networking/tuntap.rst; <linux/if_tun.h>; netdevice(7).
import { closeSync, constants, openSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { TapFd } from '../../kvm/tap-fd.js';
import { NET_HEADER } from '../virtio/net-header.js';
import type { Offloads } from './net-backend.js';

const TUN = '/dev/net/tun';

// ioctl numbers: type 'T' by number and size; netdevice's are plain numbers.
const TUNSETIFF = 0x4004_54ca;
const TUNSETOFFLOAD = 0x4004_54d0;
const TUNSETVNETHDRSZ = 0x4004_54d8;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCGIFMTU = 0x8921;

const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFF_UP = 0x1;

const TUN_F = { CSUM: 1, TSO4: 2, TSO6: 4 } as const;

/** struct ifreq, and the offset of its union. */
const IFREQ_BYTES = 40;
const IFREQ_VALUE = 16;

const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | 0x8_0000;

/** What a person does about it, by error. */
const REMEDIES: Readonly<Record<string, (name: string) => string>> = {
  EPERM: (name) => `make it as root for this user: sudo ip tuntap add dev ${name} mode tap user $USER`,
  EBUSY: () => 'another program (another machine?) holds it; give every machine a TAP of its own',
  EINVAL: (name) => `an interface of that name exists and is no TAP of one queue; see: ip -details link show ${name}`,
  ENOENT: () => 'load the module (sudo modprobe tun); in a container pass --device /dev/net/tun',
  ENODEV: () => 'load the module (sudo modprobe tun); in a container pass --device /dev/net/tun',
  EACCES: () => 'give this user access to it',
};

export class TapError extends Error {
  override readonly name = 'TapError';
  constructor(
    what: string,
    name: string,
    /** Such as EBUSY. */
    readonly code: string,
    words = '',
  ) {
    const remedy = REMEDIES[code]?.(name);
    super(`${what}: ${code}${words === '' ? '' : ` (${words})`}${remedy === undefined ? '' : `; ${remedy}`}`);
  }
}

interface Libc {
  ioctl(fd: number, number: number, argument: Uint8Array): number;
  /** With an integer as argument. */
  ioctlInteger(fd: number, number: number, argument: number): number;
  socket(domain: number, type: number, protocol: number): number;
  close(fd: number): number;
  errno(): number;
}

/** The interfaces of the network namespace in which this was loaded and is called. */
export class TapInterfaces {
  readonly #libc: Libc;

  private constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** koffi is loaded here: nobody who uses no TAP waits for it. */
  static async load(): Promise<TapInterfaces> {
    const { default: koffi } = await import('koffi');
    const libc = koffi.load(null);
    return new TapInterfaces({
      ioctl: libc.func('int ioctl(int fd, unsigned long number, _Inout_ uint8_t *argument)') as Libc['ioctl'],
      ioctlInteger: libc.func('ioctl', 'int', ['int', 'unsigned long', 'unsigned long']) as Libc['ioctlInteger'],
      socket: libc.func('int socket(int domain, int type, int protocol)') as Libc['socket'],
      close: libc.func('int close(int fd)') as Libc['close'],
      errno: () => koffi.errno(),
    });
  }

  exists(name: string): boolean {
    return this.#netdevice(SIOCGIFFLAGS, name) !== undefined;
  }

  /** @returns undefined when there is no such interface */
  mtu(name: string): number | undefined {
    return this.#netdevice(SIOCGIFMTU, name)?.getInt32(IFREQ_VALUE, true);
  }

  /**
   * Attaches to the TAP, or makes one that lives as long as the result is open, and brings it up.
   * @throws TapError
   */
  attach(name: string): AttachedTap {
    const isNew = !this.exists(name);
    let fd: number;
    try {
      fd = openSync(TUN, constants.O_RDWR | constants.O_NONBLOCK);
    } catch (error) {
      const { code = 'EIO' } = error as NodeJS.ErrnoException;
      throw new TapError(`the TAP ${name} needs ${TUN}, which cannot be opened`, name, code);
    }
    try {
      const request = ifreq(name);
      request.setUint16(IFREQ_VALUE, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, true);
      this.#check(
        this.#libc.ioctl(fd, TUNSETIFF, bytes(request)),
        `the TAP ${name} cannot be ${isNew ? 'made' : 'used'}`,
        name,
      );
      const size = new DataView(new ArrayBuffer(4));
      size.setInt32(0, NET_HEADER, true);
      this.#check(this.#libc.ioctl(fd, TUNSETVNETHDRSZ, bytes(size)), `the TAP ${name} takes no virtio headers`, name);
      if (isNew) this.#bringUp(name);
      const setOffloads = this.#offloadsOf(fd);
      setOffloads({ checksum: false, tso4: false, tso6: false });
      const tap = TapFd.adopt(fd);
      return {
        tap,
        setOffloads,
        close: () => {
          tap.close();
          closeSync(fd);
        },
      };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** What the kernel may hand over unfinished. A refusal leaves it as it was. */
  #offloadsOf(fd: number): (taken: Offloads) => void {
    return ({ checksum, tso4, tso6 }) => {
      const segments = (tso4 ? TUN_F.TSO4 : 0) | (tso6 ? TUN_F.TSO6 : 0);
      this.#libc.ioctlInteger(fd, TUNSETOFFLOAD, checksum ? TUN_F.CSUM | segments : 0);
    };
  }

  #bringUp(name: string): void {
    const request = this.#netdevice(SIOCGIFFLAGS, name);
    if (request === undefined) return;
    request.setUint16(IFREQ_VALUE, request.getUint16(IFREQ_VALUE, true) | IFF_UP, true);
    this.#netdevice(SIOCSIFFLAGS, name, request);
  }

  #netdevice(number: number, name: string, request = ifreq(name)): DataView | undefined {
    const socket = this.#libc.socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0);
    if (socket < 0) return undefined;
    const result = this.#libc.ioctl(socket, number, bytes(request));
    this.#libc.close(socket);
    return result < 0 ? undefined : request;
  }

  #check(result: number, what: string, name: string): void {
    if (result >= 0) return;
    const [code = 'EIO', words] = getSystemErrorMap().get(-this.#libc.errno()) ?? [];
    throw new TapError(what, name, code, words);
  }
}

/** A TAP with its kernel side: until `close`. */
export interface AttachedTap {
  readonly tap: TapFd;
  setOffloads(taken: Offloads): void;
  close(): void;
}

function ifreq(name: string): DataView {
  const request = new Uint8Array(IFREQ_BYTES);
  request.set(Buffer.from(name).subarray(0, IFREQ_VALUE - 1));
  return new DataView(request.buffer);
}

function bytes(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer);
}
