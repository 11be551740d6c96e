//! Forecasts: what they say is fetched, and the time that takes behind a line of known speed, are what restores then need.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/local.rs"]
mod local;

use std::process::Output;
use std::time::Instant;

use local::{MIB, Site, noise, told};
use serde_json::Value;

/// The line, in bytes a second: slower than any machine that runs this.
const LINE: &str = "3M";

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{}", told(output)))).unwrap()
}

/// Bytes that compress to about half.
fn text(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).iter().map(|byte| b'a' + byte % 16).collect()
}

/// Machines that differ: noise, text, much that is zero, and one that has the most of another.
fn site() -> Site {
    let site = Site::new();
    let mut sparse = noise(73, 3 * MIB);
    sparse.resize(80 * MIB, 0);
    sparse.extend(noise(74, 3 * MIB));
    let mut alike = noise(71, 14 * MIB);
    alike.truncate(10 * MIB);
    alike.extend(text(75, 4 * MIB));
    let disks =
        [("noise", noise(71, 14 * MIB)), ("text", text(72, 24 * MIB)), ("sparse", sparse), ("alike", alike)];
    for (vm, disk) in disks {
        std::fs::write(site.path("disk.raw"), disk).unwrap();
        site.succeed(&["backup", "--key-file", "w.key", "--vm", vm, "--allow-small", "disk0=disk.raw"]);
    }
    site
}

#[test]
fn a_forecast_is_what_the_restore_then_takes() {
    let site = site();
    let forecast = site.run(&["rto", "--storage", ".", "--limit-download", LINE, "--probe", "6s", "--json"]);
    assert_eq!(forecast.status.code(), Some(0), "{}", told(&forecast));
    let machines = summary(&forecast)["machines"].as_array().unwrap().clone();
    assert_eq!(machines.len(), 4);
    for machine in machines {
        let vm = machine["vm"].as_str().unwrap();
        let words = ["restore", &format!("{vm}:latest:disk0"), "--target", "back.raw", "--overwrite"];
        let _ = std::fs::remove_file(site.path("back.raw"));
        let started = Instant::now();
        let restored = site.run(&[&words[..], &["--limit-download", LINE, "--json"]].concat());
        let took = started.elapsed().as_secs_f64();
        let fetched = summary(&restored)["fetched_bytes"].as_f64().unwrap();
        let told = machine["fetch_bytes"].as_f64().unwrap();
        assert!((told / fetched - 1.0).abs() < 0.05, "{vm}: {told} of {fetched}");
        let forecast = machine["complete_seconds"].as_f64().unwrap();
        // A restore opens the repository too, which the forecast counts once for all.
        println!("{vm}: forecast {forecast:.1} s, took {took:.1} s");
        assert!(forecast > took * 0.6 && forecast < took * 1.3, "{vm}: {forecast} of {took}");
    }
    let left = std::fs::read_dir(&site.folder).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("sancerre-rto")), "{left:?}");
}

#[test]
fn a_target_that_cannot_be_met_is_an_alarm() {
    let site = site();
    let all = ["rto", "noise:latest", "text:latest", "--limit-download", LINE, "--probe", "2s", "--json"];
    let late = site.run(&[&all[..], &["--target", "1s"]].concat());
    assert_eq!(late.status.code(), Some(3), "{}", told(&late));
    assert_eq!(summary(&late)["is_over"], true);
    let fine = site.run(&[&all[..], &["--target", "1h"]].concat());
    assert_eq!(fine.status.code(), Some(0), "{}", told(&fine));
    let names: Vec<_> =
        summary(&fine)["machines"].as_array().unwrap().iter().map(|one| one["vm"].clone()).collect();
    assert_eq!(names, ["noise", "text"], "in the order in which they are named");
}
