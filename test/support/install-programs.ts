// Before all tests: brings the programs that they use, where that is allowed (root, with apt); says which are missing elsewhere.
import { ensureInstalled, haveApt, missingPackages, updateLists } from '../../guests/linux/packages.js';
import { programNeeds } from './programs.js';

/** vitest's globalSetup, and a step of test/svm-host/prepare.mjs: no network is there. */
export async function setup(): Promise<void> {
  const needs = programNeeds();
  if (needs.length === 0) return;
  const onDetail = (detail: string): void => void process.stderr.write(`tests: ${detail}\n`);
  try {
    if (haveApt()) await updateLists({ onDetail });
    await ensureInstalled(needs, { onDetail, purpose: 'run every test' });
  } catch (error) {
    // Where every test has to run (see kvm.ts), none may be skipped for want of a package.
    if (process.env['MICROVISOR_REQUIRE_KVM'] === '1') throw error;
    const packages = missingPackages(needs).join(', ');
    onDetail(`those that need ${packages} are skipped: ${error instanceof Error ? error.message : String(error)}`);
  }
}
