// The header in front of every frame of a virtio-net device, and the question whether a guest's may be believed.
// VIRTIO 1.2 §5.1.3 (feature bits), §5.1.6 (struct virtio_net_hdr), §5.1.6.2 (packet transmission).

/** VIRTIO 1.2 §5.1.3: feature bits of a network device, those that are served. */
export const NET_FEATURE = {
  CSUM: 0,
  GUEST_CSUM: 1,
  MTU: 3,
  MAC: 5,
  GUEST_TSO4: 7,
  GUEST_TSO6: 8,
  HOST_TSO4: 11,
  HOST_TSO6: 12,
  MRG_RXBUF: 15,
  STATUS: 16,
} as const;

/** Bytes of struct virtio_net_hdr with num_buffers, which VIRTIO 1 always has. */
export const NET_HEADER = 12;

const FLAGS = 0;
const GSO_TYPE = 1;
const HDR_LEN = 2;
const GSO_SIZE = 4;
const CSUM_START = 6;
const CSUM_OFFSET = 8;
const NUM_BUFFERS = 10;

export const NET_FLAG = { NEEDS_CSUM: 1, DATA_VALID: 2 } as const;
export const GSO = { NONE: 0, TCPV4: 1, UDP: 3, TCPV6: 4, UDP_L4: 5, ECN: 0x80 } as const;

/** What a driver may ask of the device, as negotiated. */
export interface TransmitOffloads {
  readonly checksum: boolean;
  readonly tso4: boolean;
  readonly tso6: boolean;
}

export type HeaderProblem =
  | 'asks for a checksum that was not negotiated'
  | 'has its checksum outside'
  | 'asks for segments that were not negotiated'
  | 'asks for segments without a checksum'
  | 'asks for segments of no bytes';

/**
 * Why a frame with this header is not sent, or undefined. Then the header holds nothing any more but what was checked:
 * no other flag, and zeros in all fields that its flags do not use.
 * @param bytes a private copy: the header, then the frame
 * @param length of both, in bytes, at least the header's
 */
export function checkTransmitHeader(
  bytes: Uint8Array,
  length: number,
  granted: TransmitOffloads,
): HeaderProblem | undefined {
  const frame = length - NET_HEADER;
  const flags = (bytes[FLAGS] as number) & NET_FLAG.NEEDS_CSUM;
  const gso = bytes[GSO_TYPE] as number;
  bytes[FLAGS] = flags;
  setU16(bytes, NUM_BUFFERS, 0);
  if (flags !== 0) {
    if (!granted.checksum) return 'asks for a checksum that was not negotiated';
    if (u16(bytes, CSUM_START) + u16(bytes, CSUM_OFFSET) + 2 > frame) return 'has its checksum outside';
  } else bytes.fill(0, CSUM_START, NUM_BUFFERS);
  if (gso === GSO.NONE) {
    bytes.fill(0, HDR_LEN, CSUM_START);
    return undefined;
  }
  const isGranted = (gso === GSO.TCPV4 && granted.tso4) || (gso === GSO.TCPV6 && granted.tso6);
  if (!isGranted) return 'asks for segments that were not negotiated';
  if (flags === 0) return 'asks for segments without a checksum';
  if (u16(bytes, GSO_SIZE) === 0) return 'asks for segments of no bytes';
  // §5.1.6.2: "the device MUST NOT rely on" hdr_len: a hint, which is made a possible one.
  if (u16(bytes, HDR_LEN) > frame) setU16(bytes, HDR_LEN, frame);
  return undefined;
}

export function setBufferCount(header: Uint8Array, count: number): void {
  setU16(header, NUM_BUFFERS, count);
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
}

function setU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
}
