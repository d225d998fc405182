// The explorer of a recorded trace: the same page without a machine behind it, on hosts without /dev/kvm as well.
// The file stays open and is read in pieces, as the page looks at them.
import type { TraceFile, TraceRecord } from '../machine/trace/trace-format.js';
import { spanOf, summarize } from '../machine/trace/trace-summary.js';
import type { Explorer } from './explore.js';
import { kindName, Latencies } from './latencies.js';
import { servePage, type PageClient, type PageHandlers } from './page-server.js';
import type { Answer, ExitRow, Hello, PageRequest, ServerMessage } from './protocol.js';

/** Parts of the overview: more than a screen has columns of pixels that a person tells apart. */
const PARTS = 1200;
/** A stretch of the file whose times are known without reading it. */
const CHUNK_RECORDS = 4096;
/** So many exits are sent at once, and out of so many stretches; of more the page shows how many they are. */
const ROWS_MAX = 8000;
const CHUNKS_MAX = 24;

interface Chunk {
  readonly first: number;
  /** Cycles. */
  from: number;
  to: number;
}

/**
 * Opens the page on `file`, which must stay open as long.
 * @param name what the page calls it
 * @throws Error that names the port when it cannot be had
 */
export async function exploreRecording(file: TraceFile, name: string, port = 0): Promise<Explorer> {
  const server = await servePage(port, new RecordingSession(file, name));
  const close = (): Promise<void> => server.close();
  return { url: server.url, close, [Symbol.asyncDispose]: close };
}

class RecordingSession implements PageHandlers {
  readonly #greeting: readonly ServerMessage[];
  readonly #chunks: readonly Chunk[];
  readonly #first: number;

  constructor(
    private readonly file: TraceFile,
    name: string,
  ) {
    const { header } = file;
    this.#first = spanOf(file.records()).first;
    this.#chunks = chunksOf(file.records());
    const latencies = new Latencies(header.devices, () => header.tscKhz);
    for (const record of file.records()) {
      if ('lost' in record) latencies.gap(record.vcpu);
      else latencies.add(record.vcpu, record.exit);
    }
    const { timeline, ...summary } = summarize(
      header,
      () => file.records(),
      PARTS,
      (exit, nameDevice) => kindName(exit, nameDevice, header.devices),
    );
    const hello: Hello = {
      type: 'hello',
      mode: 'recording',
      name,
      cmdline: header.cmdline,
      cpus: header.cpus,
      memoryMiB: 0,
      tscKhz: header.tscKhz,
      devices: header.devices,
      fields: [],
      stepLimit: undefined,
      isTraced: true,
      snapshotFolder: '',
    };
    this.#greeting = [
      hello,
      { type: 'recording', summary: { ...summary, timeline } },
      { type: 'latencies', rows: latencies.rows() },
    ];
  }

  onOpen(client: PageClient): void {
    for (const message of this.#greeting) client.send(message);
  }

  onClose(): void {
    // Nothing is kept of a page.
  }

  onRequest(client: PageClient, request: PageRequest): void {
    if (request.type === 'span')
      client.send({ type: 'answer', id: request.id, ...this.#span(request.from, request.to) });
    else if ('id' in request)
      client.send({ type: 'answer', id: request.id, error: 'There is no machine behind a recording.' });
  }

  #span(fromMs: number, toMs: number): Answer {
    const { tscKhz } = this.file.header;
    const from = this.#first + fromMs * tscKhz;
    const to = this.#first + toMs * tscKhz;
    const found = this.#chunks.filter((chunk) => chunk.to >= from && chunk.from <= to);
    const [first] = found;
    const last = found.at(-1);
    if (first === undefined || last === undefined) return { exits: [], isWhole: true };
    const count = last.first - first.first + CHUNK_RECORDS;
    if (count > CHUNKS_MAX * CHUNK_RECORDS) return { exits: [], isWhole: false };
    const rows: ExitRow[] = [];
    const served = new Latencies([], () => tscKhz);
    const take = (row: ExitRow | undefined): void => {
      if (row !== undefined && row.exited + Math.max(row.served, 0) >= from && row.entered <= to)
        rows.push({ ...row, entered: row.entered - this.#first, exited: row.exited - this.#first });
    };
    let left = count;
    for (const record of this.file.records(first.first)) {
      if (left-- === 0) break;
      if ('lost' in record) served.gap(record.vcpu);
      else take(served.add(record.vcpu, record.exit));
      if (rows.length > ROWS_MAX) return { exits: [], isWhole: false };
    }
    for (const row of served.unserved()) take(row);
    return { exits: rows, isWhole: true };
  }
}

function chunksOf(records: Iterable<TraceRecord>): readonly Chunk[] {
  const chunks: Chunk[] = [];
  let index = 0;
  let chunk: Chunk | undefined;
  for (const record of records) {
    if (chunk === undefined || index - chunk.first === CHUNK_RECORDS) {
      chunk = { first: index, from: Infinity, to: -Infinity };
      chunks.push(chunk);
    }
    index++;
    if ('lost' in record) continue;
    chunk.from = Math.min(chunk.from, record.exit.entered);
    chunk.to = Math.max(chunk.to, record.exit.exited);
  }
  return chunks;
}
