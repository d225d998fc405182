// The watch over vCPUs that can never go on, with vCPUs that say of themselves what the test wants.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { watchForHalt } from '../../../src/machine/halt-watch.js';
import { LIVENESS } from '../../../src/vcpu/control.js';

/** Answers each probe at once. */
class SomeVcpu {
  cpuNanoseconds = 0;
  isRunnable = false;
  probes = 0;
  liveness: number = LIVENESS.ALIVE;
  probe(): void {
    this.probes++;
  }
}

describe('watchForHalt', () => {
  beforeEach(() => vi.useFakeTimers());
  afterEach(() => vi.useRealTimers());

  it('"all CPUs halted with interrupts off (noticed within a second)"', () => {
    const vcpus = [new SomeVcpu(), new SomeVcpu()];
    let halts = 0;
    watchForHalt(vcpus, () => halts++);
    vcpus.forEach((vcpu, index) => (vcpu.liveness = index === 0 ? LIVENESS.HALTED : LIVENESS.WAITS_FOR_SIPI));
    vi.advanceTimersByTime(1000);
    expect(halts).toBe(1);
  });

  it.each([
    ['uses processor time', (vcpu: SomeVcpu) => (vcpu.cpuNanoseconds += 10_000_000)],
    [
      'waits for a processor, as on a host with more guests than it can run',
      (vcpu: SomeVcpu) => (vcpu.isRunnable = true),
    ],
  ])('leaves a vCPU alone that %s: "a vCPU that uses processor time is not kicked"', (_, act) => {
    const vcpu = new SomeVcpu();
    const watch = watchForHalt([vcpu], () => expect.fail('it is not halted'));
    for (let period = 0; period < 10; period++) {
      act(vcpu);
      vi.advanceTimersByTime(200);
    }
    expect(vcpu.probes).toBe(0);
    watch.close();
  });

  it('asks one that does nothing, and again only when it has run', () => {
    const vcpu = new SomeVcpu();
    const watch = watchForHalt([vcpu], () => expect.fail('it is not halted'));
    vi.advanceTimersByTime(2000);
    expect(vcpu.probes).toBe(1);
    vcpu.cpuNanoseconds += 1000;
    vi.advanceTimersByTime(2000);
    expect(vcpu.probes).toBe(2);
    watch.close();
  });
});
