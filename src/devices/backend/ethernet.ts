// What the network parts know of Ethernet: addresses and sizes.
// IEEE 802.3 clause 3; VIRTIO 1.2 §5.1.4 (mac).
import { randomBytes } from './random-source.js';

/** Destination address, source address, type. */
export const ETHERNET_HEADER = 14;
export const MAC_BYTES = 6;
/** Offset of the source address in a frame. */
export const SOURCE_ADDRESS = 6;
/** The largest IP packet, behind a header with one VLAN tag: what segmentation offload makes of a frame at most. */
export const FRAME_MAX = 65_535 + ETHERNET_HEADER + 4;

/** @throws RangeError unless it is `52:54:00:12:34:56`, the address of one station */
export function parseMac(text: string): Uint8Array {
  const bytes = Uint8Array.from(text.split(':'), (pair) =>
    /^[0-9a-f]{2}$/i.test(pair) ? Number.parseInt(pair, 16) : NaN,
  );
  const isMac = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text);
  if (!isMac || isGroup(bytes) || bytes.every((byte) => byte === 0))
    throw new RangeError(
      `the MAC address ${text}: give six pairs of hexadecimal digits, as 52:54:00:12:34:56, the first one even`,
    );
  return bytes;
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac.subarray(0, MAC_BYTES), (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** A locally administered address of one station. */
export function randomMac(): Uint8Array {
  const mac = randomBytes(MAC_BYTES);
  mac[0] = ((mac[0] as number) & 0xfc) | 0x02;
  return mac;
}

/** Broadcast or multicast: the address at `at` is not one station's. */
export function isGroup(bytes: Uint8Array, at = 0): boolean {
  return ((bytes[at] as number) & 1) !== 0;
}

/** The address at `at` as a number, for maps. */
export function macKey(bytes: Uint8Array, at: number): number {
  let high = 0;
  let low = 0;
  for (let i = 0; i < 2; i++) high = high * 256 + (bytes[at + i] as number);
  for (let i = 2; i < MAC_BYTES; i++) low = low * 256 + (bytes[at + i] as number);
  return high * 2 ** 32 + low;
}
