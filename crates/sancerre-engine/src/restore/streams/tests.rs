//! The control on links of all kinds, made up: what it settles on must be nearly as fast as the best number.

use super::*;

/// A link and a machine behind it. Rates are in bytes a second.
struct World {
    latency: f64,
    stream: f64,
    line: f64,
    machine: f64,
}

const FRAME_BYTES: u64 = 300_000;
const RANGE_BYTES: f64 = 32e6;

impl World {
    /// What so many streams bring: each waits for its first byte, then shares the line with the others.
    fn rate(&self, streams: usize) -> f64 {
        let alone = RANGE_BYTES / (self.latency + RANGE_BYTES / self.stream);
        (streams as f64 * alone).min(self.line)
    }

    /// Lets frames arrive for so long, and returns bytes a second in the second half of that time.
    fn run(&self, control: &mut Control, seconds: f64) -> f64 {
        let (mut now, mut counted) = (0.0, 0);
        control.answered(Duration::from_secs_f64(self.latency));
        while now < seconds {
            let arriving = self.rate(control.streams);
            // Below the machine's speed a processor waits for every frame, above it for none.
            now += FRAME_BYTES as f64 / arriving.min(self.machine);
            control.arrived(Duration::from_secs_f64(now), FRAME_BYTES, arriving < self.machine);
            if now > seconds / 2.0 {
                counted += FRAME_BYTES;
            }
        }
        counted as f64 / (seconds / 2.0)
    }
}

#[test]
fn the_best_is_found_on_every_link() {
    for (latency, stream, line, machine) in [
        // A bucket and a small machine; a bucket and a large one; and one that no number of streams fills.
        (0.03, 85e6, 1e10, 3e8),
        (0.03, 85e6, 1e10, 4e9),
        (0.03, 85e6, 1e11, 1e11),
        // A branch office, a long way, a folder, and a slow machine with a folder.
        (0.02, 85e6, 12.5e6, 3e8),
        (0.3, 20e6, 1e9, 1e9),
        (0.0001, 1e9, 5e9, 1e9),
        (0.0001, 1e9, 5e9, 5e7),
    ] {
        let world = World { latency, stream, line, machine };
        let mut control = Control::new();
        let best = world.rate(STREAMS_MAX).min(machine);
        let found = world.run(&mut control, 20.0);
        assert!(found >= 0.9 * best, "{found:e} of {best:e} with {control:?}");
        assert!(control.streams <= STREAMS_MAX);
    }
}

#[test]
fn a_machine_that_has_enough_is_sent_no_more() {
    let world = World { latency: 0.0001, stream: 1e9, line: 5e9, machine: 1e8 };
    let mut control = Control::new();
    world.run(&mut control, 20.0);
    assert_eq!((control.streams, control.limit), (STREAMS_MIN, Limit::Machine));
}

#[test]
fn a_full_line_is_not_crowded() {
    let world = World { latency: 0.02, stream: 85e6, line: 12.5e6, machine: 3e8 };
    let mut control = Control::new();
    world.run(&mut control, 20.0);
    assert_eq!(control.limit, Limit::Line);
    assert!(control.streams <= 2 * STREAMS_FIRST, "{control:?}");
}

#[test]
fn a_line_that_gets_wider_is_used() {
    let mut world = World { latency: 0.02, stream: 85e6, line: 12.5e6, machine: 1e10 };
    let mut control = Control::new();
    world.run(&mut control, 20.0);
    world.line = 5e9;
    let found = world.run(&mut control, 60.0);
    assert!(found > 0.9 * 5e9, "{found:e} with {control:?}");
}

/// Gaps are read over where answers take long, and not where each byte takes another's place.
#[test]
fn gaps_are_worth_what_the_line_has_to_spare() {
    let mut control = Control::new();
    assert_eq!(control.gap_bytes(), GAP_BYTES);
    control.answered(Duration::from_millis(30));
    assert_eq!(control.gap_bytes(), GAP_BYTES_UNSURE);
    control.limit = Limit::Latency;
    assert_eq!(control.gap_bytes(), 2_550_000);
    control.limit = Limit::Line;
    assert_eq!(control.gap_bytes(), GAP_BYTES_FULL);
}

#[tokio::test]
async fn turns_follow_the_control() {
    let streams = Streams::new();
    let mut turns = Vec::new();
    for _ in 0..STREAMS_FIRST {
        turns.push(streams.enter().await.unwrap());
    }
    assert_eq!(streams.permits.available_permits(), 0);
    streams.state().control.streams = STREAMS_FIRST + 4;
    streams.arrived(1, true);
    assert_eq!(streams.permits.available_permits(), 4);
    streams.state().control.streams = STREAMS_MIN;
    turns.clear();
    assert_eq!(streams.permits.available_permits(), STREAMS_MIN);
}
