//! A QEMU without libvirt, with the same guests.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Guest, Host};

/// A running QEMU.
pub(crate) struct Plain {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Plain {
    /// Makes a guest's disks.
    pub(crate) fn make(host: &Host, guest: &Guest<'_>) {
        host.make_disks(guest);
    }

    /// Starts QEMU on them; `more` arguments go with it. The guest has written something when this returns.
    pub(crate) fn start(host: &Host, guest: &Guest<'_>, more: &[&str]) -> Self {
        let socket = host.path("qmp.sock");
        let mut command = host.command("qemu-system-x86_64");
        command.args(["-machine", "pc,accel=tcg", "-m", "16", "-display", "none", "-nodefaults"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display())).args(more);
        for (number, format) in guest.disks.iter().enumerate() {
            let (name, path) = (["vda", "vdb"][number], host.disk(guest.name, number));
            command.arg("-blockdev").arg(
                json!({"driver": format, "node-name": format!("node-{name}"), "cache": {"direct": false},
                    "file": {"driver": "file", "filename": path}})
                .to_string(),
            );
            let device = format!(
                "virtio-blk-pci,drive=node-{name},id={name},write-cache=off,bootindex={}",
                number + 1
            );
            command.args(["-device", &device]);
        }
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let plain = Self { child, socket };
        let started = Instant::now();
        while asked(&plain.socket, &json!({"execute": "query-status"})).is_none() {
            assert!(started.elapsed() < Duration::from_secs(30), "QEMU does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        host.wait_for_writes(guest, 3);
        plain
    }

    /// Starts QEMU on a guest with a kernel and an agent, whose socket is `qga.sock`.
    pub(crate) fn start_linux(host: &Host, name: &str) -> Self {
        let socket = host.path("qmp.sock");
        let mut command = host.command("qemu-system-x86_64");
        command.args([
            "-machine",
            "q35,accel=tcg",
            "-cpu",
            "max",
            "-m",
            "256",
            "-display",
            "none",
            "-nodefaults",
        ]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.args(["-kernel", "vmlinuz", "-initrd", "initrd", "-append", "quiet"]);
        command.arg("-drive").arg(format!("file={},format=qcow2,if=virtio", host.disk(name, 0).display()));
        command.args([
            "-device",
            "virtio-serial",
            "-chardev",
            "socket,path=qga.sock,server=on,wait=off,id=ga",
        ]);
        command.args(["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"]);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        Self { child, socket }
    }

    /// What the monitor answers.
    pub(crate) fn ask(&self, question: Value) -> Value {
        asked(&self.socket, &question).unwrap_or_else(|| panic!("{question}"))["return"].clone()
    }

    /// Nothing is left of us but one list of changes on each disk that keeps one.
    pub(crate) fn is_clean(&self, host: &Host) {
        for query in ["query-jobs", "query-block-exports", "query-named-block-nodes"] {
            let left = self.ask(json!({"execute": query})).to_string();
            assert!(!left.contains("sancerre-file") && !left.contains("sancerre-backup"), "{left}");
            assert!(!left.contains("sancerre-export") && !left.contains("sancerre-until-now"), "{left}");
        }
        for block in self.ask(json!({"execute": "query-block"})).as_array().unwrap() {
            let lists = block["inserted"]["dirty-bitmaps"].as_array();
            let names: Vec<&str> =
                lists.into_iter().flatten().filter_map(|list| list["name"].as_str()).collect();
            assert_eq!(names.len(), 1, "{names:?}");
        }
        host.has_no_files();
    }

    /// Ends it as a person does: it writes its lists down.
    pub(crate) fn quit(mut self) {
        self.ask(json!({"execute": "quit"}));
        self.child.wait().unwrap();
    }

    /// Ends it as nobody should.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a monitor answers that has nobody else to talk to.
pub(crate) fn asked(socket: &Path, question: &Value) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    lines.next()?.ok()?;
    let capabilities = json!({"execute": "qmp_capabilities"});
    stream.write_all(format!("{capabilities}\n{question}\n").as_bytes()).ok()?;
    let answers = lines.map_while(Result::ok).map(|line| serde_json::from_str::<Value>(&line).unwrap());
    answers.filter(|answer| answer.get("event").is_none()).nth(1)
}
