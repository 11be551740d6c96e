//! Forecasts: what they say is fetched, and the time that takes behind a line of known speed, are what restores then need.

use std::time::Instant;

use crate::support::{MIB, Site, noise, summary, told};

/// The line, in bytes a second: slower than any machine that runs this.
const LINE: &str = "2M";

/// Bytes that compress to about half.
fn text(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).iter().map(|byte| b'a' + byte % 16).collect()
}

/// Machines that differ: noise, text, much that is zero, and one that has the most of another.
fn site() -> Site {
    let site = Site::new();
    let mut sparse = noise(73, 2 * MIB);
    sparse.resize(80 * MIB, 0);
    sparse.extend(noise(74, 2 * MIB));
    let mut alike = noise(71, 8 * MIB);
    alike.truncate(5 * MIB);
    alike.extend(text(75, 3 * MIB));
    let disks = [("alike", alike), ("sparse", sparse), ("text", text(72, 10 * MIB))];
    for (vm, disk) in disks {
        std::fs::write(site.path("disk.raw"), disk).unwrap();
        site.succeed(&["backup", "--key-file", "w.key", "--vm", vm, "--allow-small", "disk0=disk.raw"]);
    }
    site
}

#[test]
fn a_forecast_is_what_restores_then_take_and_a_target_that_cannot_be_met_is_an_alarm() {
    let site = site();
    let forecast = site.run(&["rto", "--storage", ".", "--limit-download", LINE, "--probe", "3s", "--json"]);
    assert_eq!(forecast.status.code(), Some(0), "{}", told(&forecast));
    let open = summary(&forecast)["open_seconds"].as_f64().unwrap();
    let machines = summary(&forecast)["machines"].as_array().unwrap().clone();
    assert_eq!(machines.len(), 3);
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
        // Each restore opens the repository too, which the forecast counts once for all.
        let forecast = machine["complete_seconds"].as_f64().unwrap() + open;
        println!("{vm}: forecast {forecast:.1} s, took {took:.1} s");
        assert!(forecast > took * 0.5 && forecast < took * 2.0, "{vm}: {forecast} of {took}");
    }
    let left = std::fs::read_dir(&site.folder).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("sancerre-rto")), "{left:?}");

    std::fs::write(site.path("plan"), "text:latest\nalike:latest --after text\n").unwrap();
    let all = ["rto", "--plan", "plan", "--limit-download", LINE, "--probe", "2s", "--json"];
    for (target, code) in [("1s", 3), ("1h", 0)] {
        let told_so = site.run(&[&all[..], &["--target", target]].concat());
        assert_eq!(told_so.status.code(), Some(code), "{}", told(&told_so));
        let summary = summary(&told_so);
        assert_eq!(summary["is_over"], code == 3);
        let names = summary["machines"].as_array().unwrap().iter().map(|one| one["vm"].clone());
        assert_eq!(names.collect::<Vec<_>>(), ["text", "alike"], "in the order in which they are named");
    }
}
