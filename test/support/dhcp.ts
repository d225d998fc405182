// A DHCP client's first word, and what it reads from the answer: for networks that no guest has joined yet.
// RFC 2131 §2 (format), RFC 2132 (options).

/** A DHCPDISCOVER as an Ethernet frame, broadcast. */
export function dhcpDiscover(mac: Uint8Array): Uint8Array {
  const bootp = Buffer.alloc(300);
  bootp.set([1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78]);
  bootp.set(mac, 28);
  bootp.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 236);
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(68, 0);
  udp.writeUInt16BE(67, 2);
  udp.writeUInt16BE(8 + bootp.length, 4);
  const ip = Buffer.alloc(20);
  ip.set([0x45, 0]);
  ip.writeUInt16BE(28 + bootp.length, 2);
  ip.set([64, 17], 8);
  ip.fill(255, 16);
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += ip.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  ip.writeUInt16BE(~sum & 0xffff, 10);
  const ethernet = Buffer.from([255, 255, 255, 255, 255, 255, ...mac, 8, 0]);
  return Buffer.concat([ethernet, ip, udp, bootp]);
}

/** The address that a server offers in this frame, or undefined when it is no offer. */
export function offeredAddress(frame: Uint8Array): string | undefined {
  const bytes = Buffer.from(frame);
  const isFromServer = bytes.length > 280 && bytes.readUInt16BE(12) === 0x0800 && bytes.readUInt16BE(34) === 67;
  return isFromServer ? [...bytes.subarray(58, 62)].join('.') : undefined;
}
