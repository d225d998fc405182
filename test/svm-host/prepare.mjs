// Prepares, where they are not there yet, the programs that the tests on the SVM host use and the guests that they boot.
// In plain JavaScript over dist/, like native/build.mjs: a step of npm's scripts, not part of the package.
import { prepareGuest } from '../../dist/guests/linux/prepare.js';
import { setup } from '../../dist/test/support/install-programs.js';

await setup();

for (const flavour of ['small', 'stock']) {
  let stage = '';
  await prepareGuest({
    flavour,
    onProgress: (progress) => {
      if (progress.stage !== stage) process.stderr.write(`preparing the ${flavour} guest: ${progress.stage}\n`);
      stage = progress.stage;
    },
  });
}
