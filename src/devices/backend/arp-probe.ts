// An ARP probe: a question that every host with IPv4 in it answers, and that nobody learns an address from.
// RFC 826; RFC 5227 §1.1 ("ARP Probe": the sender's protocol address is all zeros).
import { ETHERNET_HEADER, MAC_BYTES } from './ethernet.js';

const ETHERTYPE_ARP = [0x08, 0x06];
/** Ethernet, IPv4, lengths of their addresses, request. */
const REQUEST = [0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x01];
const OPERATION = { AT: ETHERNET_HEADER + 7, REPLY: 2 } as const;
/** A link-local address that is never assigned: RFC 3927 §2.1 reserves the last 256. */
const TARGET = [169, 254, 255, 254];
const ARP_PROBE_BYTES = ETHERNET_HEADER + 28;

/** @param mac who asks: the guest's own address, so that the answer teaches the network nothing wrong */
export function arpProbe(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(ARP_PROBE_BYTES);
  frame.fill(0xff, 0, MAC_BYTES);
  frame.set(mac, MAC_BYTES);
  frame.set(ETHERTYPE_ARP, 2 * MAC_BYTES);
  frame.set(REQUEST, ETHERNET_HEADER);
  frame.set(mac, ETHERNET_HEADER + 8);
  frame.set(TARGET, ETHERNET_HEADER + 24);
  return frame;
}

/** Whether a frame is an answer to such a question. */
export function isProbeAnswer(frame: Uint8Array): boolean {
  const sender = ETHERNET_HEADER + 14;
  return (
    frame.length >= ARP_PROBE_BYTES &&
    ETHERTYPE_ARP.every((byte, i) => frame[2 * MAC_BYTES + i] === byte) &&
    frame[OPERATION.AT] === OPERATION.REPLY &&
    TARGET.every((byte, i) => frame[sender + i] === byte)
  );
}
