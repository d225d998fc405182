// Prepares, where they are not in the cache yet, the guests that the tests on the SVM host boot.
// In plain JavaScript over dist/, like native/build.mjs: a step of npm's scripts, not part of the package.
import { prepareGuest } from '../../dist/guests/linux/prepare.js';

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
