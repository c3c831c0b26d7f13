//! Processes in the place of workers, over memory they really share, killed at whatever they are doing.

use std::fs::OpenOptions;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::shared::cell::Region;

const WORKERS: usize = 4;
const ENV: &str = "SLUICE_BREAKER_TEST";

shared_struct! {
    #[derive(Debug)]
    #[repr(align(64))]
    struct Stage {
        breaker: Breaker,
        clock: AtomicU64,
        /// Of each worker: the generation of the test request it is making, plus 1.
        testing: [AtomicU64; WORKERS],
        /// A quota was overrun.
        overruns: AtomicU64,
        steps: AtomicU64,
    }
}

fn settings(half_open: u32) -> Settings {
    Settings { failures: 3, window: 1_000, open: 50, lease: Some(1 << 32), half_open, ..Settings::default() }
}

fn stage(path: &str) -> &'static Stage {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    Region::of_file(&file).get(0).unwrap()
}

/// What a worker does until it is killed. Not a test: one starts it.
#[test]
#[ignore = "started by the test below"]
fn worker() {
    let Ok(how) = std::env::var(ENV) else { return };
    let [index, half_open, path] = how.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{how}") };
    let (index, s) = (index.parse::<u16>().unwrap(), settings(half_open.parse().unwrap()));
    let stage = stage(path);
    for turn in 0..u32::MAX {
        let now = stage.clock.fetch_add(1, SeqCst);
        stage.steps.fetch_add(1, Relaxed);
        let (Admission::Allow(token), _) = stage.breaker.admit(&s, now, of(index)) else { continue };
        if token.is_test() {
            // Said after the permit is taken and withdrawn before it is given back: never of more than hold one.
            let mine = u64::from(token.generation) + 1;
            let said = &stage.testing[usize::from(index)];
            said.store(mine, SeqCst);
            let holders = stage.testing.iter().filter(|other| other.load(SeqCst) == mine).count();
            if holders > s.half_open as usize {
                stage.overruns.fetch_add(1, SeqCst);
            }
            said.store(0, SeqCst);
        }
        if turn % 11 == 0 {
            stage.breaker.abort(token);
        } else {
            let good = (turn ^ u32::from(index)) % 5 != 0;
            stage.breaker.record(&s, now, token, report(good));
        }
    }
}

fn start(index: usize, half_open: u32, path: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        &format!("{}::worker", module_path!().split_once("::").unwrap().1),
        "--ignored",
    ]);
    command.env(ENV, format!("{index} {half_open} {path}")).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn workers_killed_anywhere_leave_nothing_stuck_and_overrun_no_quota() {
    for half_open in [1, 3] {
        let name = format!("sluice-breaker-{}-{half_open}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(size_of::<Stage>() as u64).unwrap();
        let text = path.to_str().unwrap();
        let stage = stage(text);
        let mut workers: Vec<_> = (0..WORKERS).map(|index| start(index, half_open, text)).collect();
        let s = settings(half_open);
        let seen = || stage.breaker.view(&s, stage.clock.load(SeqCst)).half_opened;
        let go_on = |from: u64| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while seen() < from + 20 {
                assert!(Instant::now() < deadline, "stuck: {:?}", stage.breaker);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for round in 0..40_usize {
            go_on(seen());
            // At an instant that has nothing to do with what they are doing.
            std::thread::sleep(Duration::from_micros(round as u64 * 37 % 1_000));
            let index = round * 7 % WORKERS;
            workers[index].kill().unwrap();
            workers[index].wait().unwrap();
            // As a successor does when it starts.
            stage.testing[index].store(0, SeqCst);
            stage.breaker.reclaim(index as u16);
            workers[index] = start(index, half_open, text);
        }
        go_on(seen());
        for mut worker in workers {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        let view = stage.breaker.view(&s, stage.clock.load(SeqCst));
        assert_eq!(stage.overruns.load(SeqCst), 0, "{view:?}");
        println!("half_open={half_open}: {} steps, {} rounds", stage.steps.load(SeqCst), view.half_opened);
    }
}
