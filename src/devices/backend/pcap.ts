// Writes the frames that pass a network card into a file that tcpdump and Wireshark read.
// draft-ietf-opsawg-pcap (PCAP Capture File Format): microseconds, little-endian, Ethernet.
import { open, type FileHandle } from 'node:fs/promises';
import { NET_HEADER } from '../virtio/net-header.js';
import type { NetBackend, NetLink } from './net-backend.js';

const MAGIC = 0xa1b2c3d4;
const VERSION = { MAJOR: 2, MINOR: 4 } as const;
const SNAP_LENGTH = 262_144;
const LINKTYPE_ETHERNET = 1;
const FILE_HEADER = 24;
const RECORD_HEADER = 16;
/** What waits for the disk; frames beyond it are not recorded, and counted. */
const BACKLOG_BYTES = 4 << 20;

export class PcapFile {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #onFailure: (message: string) => void;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** Bytes in the file up to the end of the last whole record. */
  #good = 0;
  #writing: Promise<void> | undefined;
  #hasFailed = false;
  /** Frames that were not recorded. */
  lost = 0;

  private constructor(file: FileHandle, path: string, onFailure: (message: string) => void) {
    this.#file = file;
    this.#path = path;
    this.#onFailure = onFailure;
    this.#push(fileHeader());
  }

  /**
   * Creates the file, or empties it; only its owner can read a new one, for it holds what people said.
   * @param onFailure gets one line when the disk is full or broken; nothing is recorded from then on
   * @throws Error when it cannot be opened
   */
  static async create(path: string, onFailure: (message: string) => void): Promise<PcapFile> {
    try {
      return new PcapFile(await open(path, 'w', 0o600), path, onFailure);
    } catch (error) {
      throw new Error(`the capture file ${path} cannot be written: ${reason(error)}`, { cause: error });
    }
  }

  /** @param frame is copied */
  record(frame: Uint8Array): void {
    const record = new Uint8Array(RECORD_HEADER + frame.length);
    if (this.#hasFailed || this.#waitingBytes + record.length > BACKLOG_BYTES) {
      this.lost++;
      return;
    }
    const microseconds = (performance.timeOrigin + performance.now()) * 1000;
    const view = new DataView(record.buffer);
    view.setUint32(0, Math.floor(microseconds / 1e6), true);
    view.setUint32(4, Math.floor(microseconds % 1e6), true);
    view.setUint32(8, frame.length, true);
    view.setUint32(12, frame.length, true);
    record.set(frame, RECORD_HEADER);
    this.#push(record);
  }

  /** Resolves when all that was recorded is in the file. */
  async close(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    await this.#file.close();
  }

  #push(bytes: Uint8Array): void {
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.#writing ??= this.#write();
  }

  // One write at a time: a slow disk occupies one thread of Node's pool, whatever the guest sends.
  async #write(): Promise<void> {
    try {
      while (this.#waiting.length > 0) {
        const batch = Buffer.concat(this.#waiting);
        this.#waiting = [];
        this.#waitingBytes = batch.length;
        for (let done = 0; done < batch.length;) done += (await this.#file.write(batch, done)).bytesWritten;
        this.#waitingBytes -= batch.length;
        this.#good += batch.length;
      }
    } catch (error) {
      this.#hasFailed = true;
      this.#waiting = [];
      // Half a record would make readers complain. A pipe cannot be cut, and need not be.
      await this.#file.truncate(this.#good).catch(() => undefined);
      this.#onFailure(
        `the capture file ${this.#path} cannot be written any more, so nothing is recorded: ${reason(error)}`,
      );
    } finally {
      this.#writing = undefined;
    }
  }
}

/** `backend`, with every frame that passes recorded: of the guest when it was sent, for the guest when it was taken. */
export function recordFrames(backend: NetBackend, path: string): NetBackend {
  let file: PcapFile | undefined;
  const skip = backend.setOffloads === undefined ? 0 : NET_HEADER;
  const record = (frame: Uint8Array): void => file?.record(skip === 0 ? frame : frame.subarray(skip));
  const setOffloads = backend.setOffloads?.bind(backend);
  return {
    async open(link: NetLink) {
      file = await PcapFile.create(path, (message) => link.warn(message));
      await backend.open({
        ...link,
        receive(frame) {
          const isTaken = link.receive(frame);
          if (isTaken) record(frame);
          return isTaken;
        },
      });
    },
    send(frame) {
      const isTaken = backend.send(frame);
      if (isTaken !== false) record(frame);
      return isTaken;
    },
    resume: () => backend.resume?.(),
    async close() {
      await backend.close();
      await file?.close();
    },
    counters: () => ({ ...backend.counters?.(), captureLost: file?.lost ?? 0 }),
    ...(backend.mtu === undefined ? {} : { mtu: backend.mtu }),
    ...(setOffloads === undefined ? {} : { setOffloads }),
  };
}

function fileHeader(): Uint8Array {
  const header = new Uint8Array(FILE_HEADER);
  const view = new DataView(header.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint16(4, VERSION.MAJOR, true);
  view.setUint16(6, VERSION.MINOR, true);
  view.setUint32(16, SNAP_LENGTH, true);
  view.setUint32(20, LINKTYPE_ETHERNET, true);
  return header;
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
