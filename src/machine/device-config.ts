// The virtio devices of a configuration: their types, and the checks of what needs no file to be found wrong.
// VIRTIO 1.2 §5.2.6.1 (GET_ID: 20 bytes), §5.1.4 (mac).
import * as v from 'valibot';
import type { NetBackend } from '../devices/backend/net-backend.js';
import { integer, text } from './config-words.js';

/** A disk of the guest. The format is what is said here, never guessed from the content. */
export interface DiskConfig {
  /** A raw file, or a block device of the host; its size is a multiple of 512. Locked while the machine lives. */
  readonly path: string;
  /** The guest can only read; several machines may share the file then. Default false. */
  readonly readOnly?: boolean;
  /** Keeps what the guest writes in this file and `path` as it is. Created when it does not exist. */
  readonly overlay?: string;
  /** What the guest's GET_ID gives, at most 20 bytes of UTF-8 (/sys/block/vda/serial); default: the file's name. */
  readonly id?: string;
  /** Limits, as token buckets of one second. */
  readonly bytesPerSecond?: number;
  readonly operationsPerSecond?: number;
}

/** A connection to the host: TCP or UDP port `host` on the host's side leads to port `guest`. */
export interface PortForward {
  readonly host: number;
  readonly guest: number;
}

export type NetBackendConfig =
  /** A user-mode network by passt; needs no privileges. */
  | { readonly kind: 'user'; readonly forwards?: readonly PortForward[] }
  /** A TAP interface, created when it does not exist. */
  | { readonly kind: 'tap'; readonly name: string }
  /** An Ethernet switch that joins the machines of this process which name it. */
  | { readonly kind: 'switch'; readonly name: string }
  /** Your own: see examples/echo-network.ts. It is for one machine, once. */
  | NetBackend;

export interface NetConfig {
  readonly backend: NetBackendConfig;
  /** `52:54:00:12:34:56`; default: a random, locally administered one. */
  readonly mac?: string;
  /** Drops what the guest sends from another address than its own; default false. */
  readonly lockMac?: boolean;
  /** Writes every frame that passes into this file, for tcpdump and Wireshark. */
  readonly pcap?: string;
}

const path = (what: string) => v.pipe(text(what), v.nonEmpty('a path is needed'));
const rate = (what: string) => v.optional(integer(what, 1, 2 ** 40));
const port = (what: string) => integer(what, 1, 65_535);
const name = (what: string) => v.pipe(text(what), v.nonEmpty(`${what} is needed`));

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const ID_BYTES = 20;

/** The lowest bit of the first byte says that an address is a group's. */
function isUnicast(mac: string): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 0 && !/^[0:]+$/.test(mac);
}

const disk = v.strictObject({
  path: path('the disk'),
  readOnly: v.optional(v.boolean('must be true or false'), false),
  overlay: v.optional(path('the overlay')),
  id: v.optional(
    v.pipe(
      text('the id'),
      v.check((id) => Buffer.byteLength(id) <= ID_BYTES, `must have at most ${ID_BYTES} bytes`),
    ),
  ),
  bytesPerSecond: rate('the bytes per second'),
  operationsPerSecond: rate('the operations per second'),
});

const ofKind = v.variant(
  'kind',
  [
    v.strictObject({
      kind: v.literal('user'),
      forwards: v.optional(
        v.array(v.strictObject({ host: port("the host's port"), guest: port("the guest's port") })),
        [],
      ),
    }),
    // IFNAMSIZ with its NUL.
    v.strictObject({
      kind: v.literal('tap'),
      name: v.pipe(name('the name of the interface'), v.maxLength(15, 'an interface has at most 15 characters')),
    }),
    v.strictObject({ kind: v.literal('switch'), name: name('the name of the switch') }),
  ],
  'must have a kind: user, tap or switch',
);

const BACKEND_METHODS = ['open', 'send', 'close'] as const;

/** A backend of the person's own keeps its identity: it is not copied. */
const own = v.custom<NetBackend>(
  (value) => BACKEND_METHODS.every((name) => typeof (value as Partial<NetBackend>)[name] === 'function'),
  'a network backend needs the methods open, send and close',
);
const isOwn = (value: unknown): boolean => typeof value === 'object' && value !== null && !('kind' in value);

/** Not a union, whose message would name neither's fault. */
const backend = v.lazy((value) => (isOwn(value) ? own : ofKind));

const net = v.strictObject({
  backend,
  mac: v.optional(
    v.pipe(
      text('the address'),
      v.regex(MAC, 'must be six pairs of hexadecimal digits, as 52:54:00:12:34:56'),
      v.check(isUnicast, 'must be the address of one station: the first byte even, and not all zeros'),
    ),
  ),
  lockMac: v.optional(v.boolean('must be true or false'), false),
  pcap: v.optional(path('the capture file')),
});

/** Rows for the schema of VmConfig. */
export const deviceEntries = {
  disks: v.optional(v.array(disk, 'must be a list of disks'), []),
  nets: v.optional(v.array(net, 'must be a list of network devices'), []),
};

export type CompleteDisk = v.InferOutput<typeof disk>;
export type CompleteNet = v.InferOutput<typeof net>;
