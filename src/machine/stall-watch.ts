// Notices a guest that makes no progress during its boot: nothing new on the console, and no exit of a new kind.
// A guest that computes or waits looks the same from here, so the doctor has the last word (see isTelling).
import type { Diagnosis } from './doctor/diagnosis.js';

export interface StallSigns {
  /** Changes with each sign of progress. */
  signature(): string;
  /** From then on the guest is its user's, and may stand still as long as it likes. */
  isBooted(): boolean;
  /** Whether anything was printed. */
  isSilent(): boolean;
  diagnose(): Promise<Diagnosis>;
}

export interface StallOptions {
  /** So long without a sign of progress is a stall. */
  readonly afterMs: number;
  readonly onStall: (diagnosis: Diagnosis) => void;
}

/** Looks in this part of the time after which a stall is one. */
const LOOKS = 5;

/** What a guest that is in order also shows, once it has printed something. */
const HARMLESS_AFTER_OUTPUT: ReadonlySet<string> = new Set(['idle', 'spinning', 'no-console', 'silent-before-console']);

/** Calls `onStall` once at most. */
export function watchForStall(signs: StallSigns, { afterMs, onStall }: StallOptions): { close(): void } {
  let last = '';
  let quiet = 0;
  // After a look that told nothing the next comes later: each stops the guest for a moment.
  let patience = LOOKS;
  let isLooking = false;
  const timer = setInterval(() => {
    if (isLooking) return;
    if (signs.isBooted()) return clearInterval(timer);
    const signature = signs.signature();
    quiet = signature === last ? quiet + 1 : 0;
    last = signature;
    if (quiet < patience) return;
    isLooking = true;
    signs.diagnose().then(
      (diagnosis) => {
        isLooking = false;
        quiet = 0;
        patience *= 2;
        if (!isTelling(diagnosis, signs.isSilent())) return;
        clearInterval(timer);
        onStall(diagnosis);
      },
      // It ended meanwhile, or somebody else has stopped it.
      () => (isLooking = false),
    );
  }, afterMs / LOOKS);
  timer.unref();
  return { close: () => clearInterval(timer) };
}

function isTelling({ causes }: Diagnosis, isSilent: boolean): boolean {
  const [first] = causes;
  return first !== undefined && (isSilent || !HARMLESS_AFTER_OUTPUT.has(first.id));
}
