// Builds the native addon when its sources or Node changed; says nothing unless it fails.
// node-gyp as npm brings it; Node's headers from beside its executable, never downloaded.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const native = dirname(fileURLToPath(import.meta.url));
const build = join(native, 'build');
const output = join(build, 'Release', 'microvisor.node');
const stamp = join(build, 'microvisor.stamp');
const lock = join(build, 'microvisor.lock');

/**
 * Ends with one sentence: what is missing and what to do.
 * @returns {never}
 */
function refuse(sentence) {
  process.stderr.write(`microvisor: the native addon cannot be built: ${sentence}\n`);
  process.exit(1);
}

function fingerprint() {
  const hash = createHash('sha256').update(`${process.version} ${process.arch} ${process.execPath}\n`);
  hash.update(readFileSync(createRequire(import.meta.url).resolve('node-addon-api/package.json')));
  for (const name of readdirSync(native).toSorted()) {
    if (/\.(c|cc|h|gyp|mjs)$/.test(name)) hash.update(`${name}\n`).update(readFileSync(join(native, name)));
  }
  return hash.digest('hex');
}

function upToDate(wanted) {
  return existsSync(output) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted;
}

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

function checkTools() {
  const missing = [
    [process.env.npm_config_python ?? process.env.PYTHON ?? 'python3', 'python3'],
    [process.env.MAKE ?? 'make', 'make'],
    [process.env.CXX?.split(' ')[0] ?? 'g++', 'g++'],
    [process.env.CC?.split(' ')[0] ?? 'gcc', 'gcc'],
  ].filter(([command]) => !runs(command));
  if (missing.length > 0) {
    const names = missing.map(([, name]) => name).join(' ');
    refuse(`${names} not found; on Debian or Ubuntu: apt-get install ${names}`);
  }
  if (!existsSync('/usr/include/linux/kvm.h') && !process.env.CPATH && !process.env.C_INCLUDE_PATH)
    refuse('/usr/include/linux/kvm.h not found; on Debian or Ubuntu: apt-get install linux-libc-dev');
}

function findHeaders() {
  const candidates = [process.env.npm_config_nodedir, dirname(dirname(process.execPath))];
  const found = candidates.find((dir) => dir && existsSync(join(dir, 'include', 'node', 'node_api.h')));
  return (
    found ??
    refuse(
      `Node's headers are not at ${join(dirname(dirname(process.execPath)), 'include', 'node')}; install them there ` +
        '(Debian: apt-get install libnode-dev; the tarballs of nodejs.org contain them), or set npm_config_nodedir',
    )
  );
}

const beside = (npm) => join(npm, 'node_modules', 'node-gyp', 'bin', 'node-gyp.js');

function findNodeGyp() {
  const prefix = dirname(dirname(process.execPath));
  const candidates = [
    () => process.env.npm_config_node_gyp,
    () => beside(join(prefix, 'lib', 'node_modules', 'npm')),
    () => beside(join(prefix, 'share', 'nodejs', 'npm')),
    () => join(prefix, 'share', 'nodejs', 'node-gyp', 'bin', 'node-gyp.js'),
    () => beside(join(spawnSync('npm', ['root', '-g'], { encoding: 'utf8' }).stdout?.trim() ?? '', 'npm')),
  ];
  for (const candidate of candidates) {
    const path = candidate();
    if (path && existsSync(path)) return path;
  }
  return refuse('node-gyp not found; it comes with npm: run this through npm (npm run build)');
}

/** One build at a time in this folder: waits for a build that runs, and takes over from one that died. */
function takeLock() {
  // Written first and linked then: a lock is never seen without its holder.
  const mine = `${lock}.${process.pid}`;
  writeFileSync(mine, String(process.pid));
  try {
    for (;;) {
      try {
        linkSync(mine, lock);
        return;
      } catch (error) {
        if (error.code !== 'EEXIST') throw error;
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
      try {
        process.kill(Number(readFileSync(lock, 'utf8')), 0);
      } catch (error) {
        if (error.code === 'ESRCH') rmSync(lock, { force: true });
      }
    }
  } finally {
    rmSync(mine, { force: true });
  }
}

function compile(wanted) {
  const headers = findHeaders();
  const gypArguments = [findNodeGyp(), 'configure', 'build', `--nodedir=${headers}`, '--directory', native];
  const result = spawnSync(process.execPath, [...gypArguments, '--jobs', 'max'], {
    encoding: 'utf8',
    // npm's own settings for node-gyp could name other headers.
    env: { ...process.env, npm_config_nodedir: headers, NPM_CONFIG_LOGLEVEL: 'warn' },
    maxBuffer: 1 << 28,
  });
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
    refuse('the compiler or node-gyp failed, see its words above');
  }
  const warnings = `${result.stdout}${result.stderr}`.split('\n').filter((line) => line.includes('warning:'));
  if (warnings.length > 0) process.stderr.write(`${warnings.join('\n')}\n`);
  writeFileSync(stamp, wanted);
}

if (process.platform !== 'linux' || process.arch !== 'x64')
  refuse(`Microvisor runs on Linux on x86-64 only, and this is ${process.platform} on ${process.arch}`);
const wanted = fingerprint();
if (!upToDate(wanted)) {
  checkTools();
  mkdirSync(build, { recursive: true });
  takeLock();
  try {
    if (!upToDate(wanted)) compile(wanted);
  } finally {
    rmSync(lock, { force: true });
  }
}
