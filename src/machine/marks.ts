// Time stamps of a machine's life, for its report: wall clock and processor time of the process since its start.

export interface Mark {
  /** Milliseconds since the process started. */
  readonly wallMs: number;
  /** Processor time of all threads of the process until then, user and system, in milliseconds. */
  readonly cpuMs: number;
}

/** The steps that every report has, if they were reached; `milestones` of the configuration add their own names. */
export type MarkName = 'created' | 'firstRun' | 'firstOutput' | 'commandReady' | 'ended';

export class Marks {
  readonly #marks: Record<string, Mark> = {};

  /** The first call for a name counts. */
  set(name: string): void {
    if (name in this.#marks) return;
    const { user, system } = process.cpuUsage();
    this.#marks[name] = { wallMs: process.uptime() * 1000, cpuMs: (user + system) / 1000 };
  }

  all(): Readonly<Record<string, Mark>> {
    return this.#marks;
  }
}
