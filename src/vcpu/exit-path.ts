// What runs for every exit: KVM_RUN, its time, and the buses that serve port and MMIO accesses.
// KVM API 4.10 (KVM_RUN) and 5 (struct kvm_run).
//
// Functions that close over their parts, and no class: V8 compiles a function that exists once for what it closes over,
// so that each view and field is an address in the code. Words that are asked for at each exit are constants of this
// file for that reason. One exit a call, for V8 makes the call a part of the loop around it; a loop in here it would
// compile by itself, and for nothing in particular, if the guest runs long enough.
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../kvm/abi-exit.js';
import { COALESCED_RING_OFFSET, KVM_RUN_OFFSET as AT } from '../kvm/kvm-run.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import type { CoalescedRing } from './coalesced-ring.js';
import type { ExitBus } from './exit-bus.js';
import type { ExitCounter } from './observe/exit-counter.js';
import type { VcpuStop } from './stop.js';

const PENDING: VcpuStop = { kind: 'pending' };

const IS_IO = KVM_EXIT_IO;
const IS_MMIO = KVM_EXIT_MMIO;
const OUT = 1;
/** Where a field is: words of the mapping, but for those that are smaller. */
const REASON = AT.exit_reason >> 2;
const IO_DIRECTION = AT.io.direction;
const IO_SIZE = AT.io.size;
const IO_PORT = AT.io.port >> 1;
const IO_COUNT = AT.io.count >> 2;
const IO_DATA = AT.io.data_offset >> 2;
const MMIO_LOW = AT.mmio.phys_addr >> 2;
const MMIO_HIGH = MMIO_LOW + 1;
const MMIO_DATA = AT.mmio.data >> 2;
const MMIO_LENGTH = AT.mmio.len >> 2;
const MMIO_IS_WRITE = AT.mmio.is_write;
const RING_FIRST = COALESCED_RING_OFFSET.first >> 2;
const RING_LAST = COALESCED_RING_OFFSET.last >> 2;

export interface ExitPathParts {
  readonly fd: Pick<VcpuFd, 'untimed' | 'run'>;
  /** `fd.enter`, or that of `fd.traced`. */
  readonly enter: () => void;
  readonly pio: ExitBus;
  readonly mmio: ExitBus;
  readonly counter: ExitCounter | undefined;
  readonly coalesced: CoalescedRing | undefined;
  /** A shared word that ends the run when it is nonzero. */
  readonly pending: Int32Array;
  /** Any exit but ports and MMIO, and a KVM_RUN that failed. Undefined: the guest goes on. */
  readonly serveOther: (reason: number) => VcpuStop | undefined;
}

/** Runs the guest to its next exit and serves that. Undefined: the guest goes on. */
export type ExitPath = () => VcpuStop | undefined;

export function createExitPath(parts: ExitPathParts): ExitPath {
  const { enter, fd, pio, mmio, counter, coalesced, pending, serveOther } = parts;
  const { untimed } = fd;
  const { readLow: readPort, writeLow: writePort } = pio;
  const { readLow: readMmio, writeLow: writeMmio } = mmio;
  const { i32: words, u16: halves, u8: bytes, view } = fd.run;
  // An undefined variable is no constant to the compiler: it may have none yet.
  const isCounted = counter !== undefined;
  const isCoalesced = coalesced !== undefined;

  // `rep ins` and `rep outs` come as one exit with a count: the port stays, the data advances.
  const serveString = (port: number, size: number, isOut: boolean): void => {
    const from = words[IO_DATA] as number;
    const end = from + (words[IO_COUNT] as number) * size;
    for (let at = from; at < end; at += size) {
      if (isOut) writePort(port, size, readLittleEndian(view, at, size));
      else writeLittleEndian(view, at, size, readPort(port, size));
    }
  };

  // Devices see 1, 2 and 4 bytes. Eight are two halves of four; an access that KVM cut at a page's end has any length.
  const serveMmioPieces = (): void => {
    const high = view.getUint32(AT.mmio.phys_addr + 4, true);
    const address = view.getUint32(AT.mmio.phys_addr, true) + high * 0x1_0000_0000;
    const length = view.getUint32(AT.mmio.len, true);
    const isWrite = view.getUint8(AT.mmio.is_write) !== 0;
    if (isCounted) counter.mmio(address, isWrite);
    let at = 0;
    while (at < length && at < 8) {
      const left = length - at;
      const size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const offset = AT.mmio.data + at;
      if (isWrite) mmio.write(address + at, size, readLittleEndian(view, offset, size));
      else writeLittleEndian(view, offset, size, mmio.read(address + at, size));
      at += size;
    }
  };

  return () => {
    enter();
    if (isCounted && (untimed[0] as number) < 0) untimed[0] = counter.timed();
    if (isCoalesced && words[RING_FIRST] !== words[RING_LAST]) coalesced.drain();
    const reason = words[REASON] as number;
    if (reason === IS_IO) {
      const port = halves[IO_PORT] as number;
      const size = bytes[IO_SIZE] as number;
      const data = (words[IO_DATA] as number) >> 2;
      if (bytes[IO_DIRECTION] === OUT) {
        if (isCounted) counter.portOut(port);
        if (words[IO_COUNT] === 1) writePort(port, size, words[data] as number);
        else serveString(port, size, true);
      } else {
        if (isCounted) counter.portIn(port);
        // What KVM does not ask for lies behind what it does: the page holds one access's data only.
        if (words[IO_COUNT] === 1) words[data] = readPort(port, size);
        else serveString(port, size, false);
      }
    } else if (reason === IS_MMIO) {
      const low = words[MMIO_LOW] as number;
      const size = words[MMIO_LENGTH] as number;
      if (words[MMIO_HIGH] !== 0 || size === 3 || size > 4) serveMmioPieces();
      else if (bytes[MMIO_IS_WRITE] !== 0) {
        if (isCounted) counter.lowMmioWrite(low);
        writeMmio(low, size, words[MMIO_DATA] as number);
      } else {
        if (isCounted) counter.lowMmioRead(low);
        words[MMIO_DATA] = readMmio(low, size);
      }
    } else {
      const stop = serveOther(reason);
      if (stop !== undefined) return stop;
    }
    return pending[0] === 0 ? undefined : PENDING;
  };
}

function readLittleEndian(view: DataView, offset: number, size: number): number {
  if (size === 4) return view.getUint32(offset, true);
  return size === 2 ? view.getUint16(offset, true) : view.getUint8(offset);
}

function writeLittleEndian(view: DataView, offset: number, size: number, value: number): void {
  if (size === 4) view.setUint32(offset, value, true);
  else if (size === 2) view.setUint16(offset, value, true);
  else view.setUint8(offset, value);
}
