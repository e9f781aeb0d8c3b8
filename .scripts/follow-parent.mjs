// npm runs its scripts in a shell, and a signal to npm ends that shell without reaching us: when it is gone, we take it as SIGTERM.
const LOOK_MS = 250;

/** Ends this process with SIGTERM once its parent is gone, unless a signal has come already. Signals keep their usual effect. */
export function followParent() {
  const parent = process.ppid;
  let signalled = false;
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    const heard = () => {
      signalled = true;
      // Nobody else listens: step aside, and let the signal do what it does by default.
      if (process.listenerCount(name) > 1) return;
      process.removeListener(name, heard);
      process.kill(process.pid, name);
    };
    process.on(name, heard);
  }
  let orphaned = false;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    if (!orphaned) {
      // A Ctrl-C in a terminal reaches the shell and us at about the same time: look once more before acting.
      orphaned = true;
      return;
    }
    clearInterval(timer);
    if (!signalled) process.kill(process.pid, 'SIGTERM');
  }, LOOK_MS);
  timer.unref();
}
