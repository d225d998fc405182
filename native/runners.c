// Which thread runs which vCPU, for the whole process: how any thread gets a vCPU out of KVM_RUN.
// KVM API 5 (immediate_exit), 4.10 (EINTR); signal-safety(7), tgkill(2).
#include "runners.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RUNNERS 1024

struct runner {
  struct kvm_run *run;  // NULL: free
  pid_t tid;
  uint32_t generation;  // so that the token of a runner long gone does not kick its successor
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct runner runners[RUNNERS];
static int kick_signal;  // 0 until the handler is installed

// To interrupt is all it does: immediate_exit is set before the signal is sent, and a runner that clears it looks at its
// reasons to stop afterwards.
static void on_kick(int signal) { (void)signal; }

// What the kick may use, the best first: a process ignores SIGURG where nobody handles it. Real-time signals are none of them:
// the kernel refuses one (EAGAIN) when all processes of the user together have RLIMIT_SIGPENDING of them pending, and the
// kick would be lost. Of the others it forgets who sent it, and delivers it. signal(7), getrlimit(2).
static const int candidates[] = {SIGURG, SIGSTKFLT, SIGPWR};

// Takes the first that nobody handles. Without SA_RESTART: KVM_RUN must return EINTR.
static int install_handler(void) {
  if (kick_signal) return 0;
  for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
    struct sigaction action;
    if (sigaction(candidates[i], NULL, &action) < 0 || action.sa_handler != SIG_DFL) continue;
    action = (struct sigaction){.sa_handler = on_kick};
    sigemptyset(&action.sa_mask);
    if (sigaction(candidates[i], &action, NULL) < 0) continue;
    kick_signal = candidates[i];
    return 0;
  }
  return -EBUSY;
}

int64_t mv_runner_add(struct kvm_run *run) {
  int64_t result = -ENOSPC;
  pthread_mutex_lock(&lock);
  if (install_handler() < 0) {
    result = -EBUSY;
  } else {
    for (uint32_t index = 0; index < RUNNERS; index++) {
      struct runner *runner = &runners[index];
      if (runner->run) continue;
      runner->run = run;
      runner->tid = (pid_t)syscall(SYS_gettid);
      runner->generation++;
      result = (int64_t)runner->generation * RUNNERS + index;
      break;
    }
  }
  pthread_mutex_unlock(&lock);
  if (result > 0) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  }
  return result;
}

// With the lock held.
static struct runner *find(uint64_t token) {
  struct runner *runner = &runners[token % RUNNERS];
  return runner->run && runner->generation == token / RUNNERS ? runner : NULL;
}

void mv_runner_remove(uint64_t token) {
  pthread_mutex_lock(&lock);
  struct runner *runner = find(token);
  if (runner) runner->run = NULL;
  pthread_mutex_unlock(&lock);
}

int mv_runner_kick(uint64_t token) {
  pthread_mutex_lock(&lock);
  struct runner *runner = find(token);
  int is_sent = 0;
  if (runner) {
    // Stored before the signal is sent: a runner of several vCPUs may be inside another one when it arrives.
    __atomic_store_n(&runner->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    is_sent = syscall(SYS_tgkill, getpid(), runner->tid, kick_signal) == 0;
  }
  pthread_mutex_unlock(&lock);
  return is_sent;
}
