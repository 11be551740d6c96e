//! Names with the places of what they name, many in a packet.

use sancerre_confine::PacketFields;

use super::{Packet, decode_node, decode_run, encode_run};
use crate::node::{FolderEntry, PlacedEntry};

pub(super) fn encode_placed(packet: Packet, placed: &PlacedEntry) -> Packet {
    let packet = packet.node(&placed.entry.node).text(&placed.entry.name);
    match &placed.runs {
        None => packet.byte(0),
        Some(runs) => {
            let runs = runs.get(..usize::from(u16::MAX)).unwrap_or(runs);
            let packet = packet.byte(1).short(u16::try_from(runs.len()).unwrap_or(u16::MAX));
            runs.iter().fold(packet, encode_run)
        }
    }
}

pub(super) fn decode_placed(mut fields: PacketFields<'_>) -> Option<Vec<PlacedEntry>> {
    let mut entries = Vec::new();
    while !fields.is_empty() {
        let (node, name) = (decode_node(&mut fields)?, fields.bytes()?.to_vec());
        let runs = match fields.flag()? {
            false => None,
            true => Some((0..fields.short()?).map(|_| decode_run(&mut fields)).collect::<Option<_>>()?),
        };
        entries.push(PlacedEntry { entry: FolderEntry { name, node }, runs });
    }
    Some(entries)
}
