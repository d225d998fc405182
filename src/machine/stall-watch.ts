// Notices a guest that makes no progress during its boot: nothing new on the console, and no exit of a new kind.
// A guest that computes or waits looks the same from here: it must be found at one place again and again, and the doctor
// has the last word.
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

/** A stalled guest is found in the same page of code so many times, one look after the other. */
const FINDS = 3;
const PAGE_SHIFT = 12n;

/** What a guest that is in order also shows, once it has printed something. */
const HARMLESS_AFTER_OUTPUT: ReadonlySet<string> = new Set(['idle', 'spinning', 'no-console', 'silent-before-console']);

/** Calls `onStall` once at most. */
export function watchForStall(signs: StallSigns, { afterMs, onStall }: StallOptions): { close(): void } {
  let last = '';
  let quiet = 0;
  // After a look that told nothing the next comes later: each stops the guest for a moment.
  let patience = LOOKS;
  let isLooking = false;
  let finds = 0;
  let place: bigint | undefined;
  const timer = setInterval(() => {
    if (isLooking) return;
    if (signs.isBooted()) return clearInterval(timer);
    const signature = signs.signature();
    quiet = signature === last ? quiet + 1 : 0;
    last = signature;
    if (quiet < patience) {
      finds = 0;
      return;
    }
    isLooking = true;
    signs.diagnose().then(
      (diagnosis) => {
        isLooking = false;
        const found = placeOf(diagnosis);
        finds = finds === 0 || found === place ? finds + 1 : 0;
        place = found;
        if (finds > 0 && finds < FINDS) return;
        quiet = 0;
        patience *= 2;
        if (finds === 0 || !isTelling(diagnosis, signs.isSilent())) return;
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

/** The page of code in which the boot processor is. */
function placeOf({ vcpus }: Diagnosis): bigint | undefined {
  const linear = vcpus[0]?.state?.code.linear;
  return linear === undefined ? undefined : BigInt(linear) >> PAGE_SHIFT;
}

function isTelling({ causes }: Diagnosis, isSilent: boolean): boolean {
  const [first] = causes;
  return first !== undefined && (isSilent || !HARMLESS_AFTER_OUTPUT.has(first.id));
}
