// Runs the `microvisor` command on a pseudo-terminal, as a person would sit before it. The terminal's other side is
// Python's pty module: Node has none. pty(7), termios(3).
import { spawn } from 'node:child_process';
import { MAIN } from './cli.js';

/** One thing that the person does. */
export type Step =
  /** Waits until the terminal has shown this text (after what was waited for before). */
  | { readonly wait: string }
  | { readonly send: string }
  /** Notes the terminal's modes. */
  | { readonly modes: true }
  /** Waits until the terminal is raw: neither lines nor output processing. */
  | { readonly raw: true }
  /** Gives the terminal another size, as when its window is dragged. */
  | { readonly resize: { readonly rows: number; readonly columns: number } }
  | { readonly signal: 'SIGTERM' | 'SIGINT' | 'SIGHUP' | 'SIGSEGV' }
  /** Closes the terminal, as when its window is closed. */
  | { readonly hangUp: true };

export interface Modes {
  readonly canonical: boolean;
  readonly echo: boolean;
  readonly signals: boolean;
  readonly outputProcessing: boolean;
}

export interface PtyEnd {
  /** Everything that the terminal showed. */
  readonly output: string;
  /** The exit status, or minus the signal. */
  readonly status: number;
  readonly modes: readonly Modes[];
  /** Modes before the command started and after it had ended. */
  readonly before: Modes;
  readonly after: Modes;
}

const SCRIPT = `
import fcntl, json, os, pty, select, signal, struct, sys, termios, time
task = json.load(sys.stdin)
master, slave = pty.openpty()

def resize(size):
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', size['rows'], size['columns'], 0, 0))

resize(task)

def modes():
    flags = termios.tcgetattr(slave)
    return {'canonical': bool(flags[3] & termios.ICANON), 'echo': bool(flags[3] & termios.ECHO),
            'signals': bool(flags[3] & termios.ISIG), 'outputProcessing': bool(flags[1] & termios.OPOST)}

before = modes()
pid = os.fork()
if pid == 0:
    os.close(master)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    os.closerange(3, 100)
    os.execvp(task['argv'][0], task['argv'])

output = b''
seen = 0
noted = []
deadline = time.time() + task['seconds']

def read(timeout):
    global output
    if master is None:
        time.sleep(timeout)
    elif select.select([master], [], [], timeout)[0]:
        try:
            output += os.read(master, 65536)
        except OSError:
            pass

def give_up(why):
    os.kill(pid, signal.SIGKILL)
    sys.exit(why + ' in ' + repr(output))

for step in task['steps']:
    if 'wait' in step:
        wanted = step['wait'].encode()
        while True:
            at = output.find(wanted, seen)
            if at >= 0:
                seen = at + len(wanted)
                break
            if time.time() > deadline:
                give_up('no ' + step['wait'])
            read(0.05)
    elif 'send' in step:
        os.write(master, step['send'].encode('latin1'))
    elif 'modes' in step:
        noted.append(modes())
    elif 'raw' in step:
        while modes()['canonical'] or modes()['outputProcessing']:
            if time.time() > deadline:
                give_up('not raw')
            read(0.02)
    elif 'resize' in step:
        resize(step['resize'])
    elif 'signal' in step:
        os.kill(pid, getattr(signal, step['signal']))
    elif 'hangUp' in step:
        os.close(master)
        master = None

status = None
while status is None:
    if time.time() > deadline:
        give_up('still running')
    read(0.02)
    done, status_word = os.waitpid(pid, os.WNOHANG)
    if done:
        status = os.waitstatus_to_exitcode(status_word)
after = before if master is None else modes()
if master is not None:
    read(0)
print(json.dumps({'output': output.decode('latin1'), 'status': status, 'modes': noted, 'before': before, 'after': after}))
`;

export interface PtyOptions {
  readonly columns?: number;
  readonly rows?: number;
  /** All steps and the end must come within this time. */
  readonly seconds?: number;
}

/** @throws Error with what the terminal showed when a step does not come to pass */
export async function onTerminal(
  words: readonly string[],
  steps: readonly Step[],
  { columns = 80, rows = 24, seconds = 50 }: PtyOptions = {},
): Promise<PtyEnd> {
  const child = spawn('python3', ['-c', SCRIPT], { stdio: ['pipe', 'pipe', 'pipe'] });
  child.stdin.end(JSON.stringify({ argv: [process.execPath, MAIN, ...words], steps, columns, rows, seconds }));
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (status !== 0) throw new Error(Buffer.concat(stderr).toString());
  return JSON.parse(Buffer.concat(stdout).toString()) as PtyEnd;
}
