//! The description of a machine in an OVA: what its disks are, and as much of a machine as lets them be started.

use std::fmt::Write;

use super::ova::{Appliance, Firmware};
use super::vmdk::VmdkWritten;

const FORMAT: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// CIM's numbers of resources.
const CPU: u32 = 3;
const MEMORY: u32 = 4;
const SATA: u32 = 20;
const DISK: u32 = 17;
/// The controller's number among the items.
const CONTROLLER: u32 = 3;

/// A disk's file in the archive.
pub(super) struct Part<'a> {
    pub(super) file: &'a str,
    pub(super) written: VmdkWritten,
}

/// The description. What a disk is named by whoever made the snapshot becomes text and nothing else.
pub(super) fn describe(appliance: &Appliance<'_>, parts: &[Part<'_>]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n  <References>\n",
    );
    for (number, part) in (1..).zip(parts) {
        let (file, size) = (escaped(part.file), part.written.file_bytes);
        line(
            &mut text,
            format_args!("    <File ovf:id=\"file{number}\" ovf:href=\"{file}\" ovf:size=\"{size}\"/>"),
        );
    }
    text.push_str("  </References>\n  <DiskSection>\n    <Info>Virtual disks</Info>\n");
    for (number, part) in (1..).zip(parts) {
        let VmdkWritten { capacity_bytes, populated_bytes, .. } = part.written;
        line(
            &mut text,
            format_args!(
                "    <Disk ovf:diskId=\"vmdisk{number}\" ovf:fileRef=\"file{number}\" ovf:capacity=\"{capacity_bytes}\" \
                 ovf:capacityAllocationUnits=\"byte\" ovf:populatedSize=\"{populated_bytes}\" ovf:format=\"{FORMAT}\"/>"
            ),
        );
    }
    let name = escaped(appliance.machine);
    line(
        &mut text,
        format_args!(
            "  </DiskSection>\n  <VirtualSystem ovf:id=\"{name}\">\n    <Info>A virtual machine</Info>\n    <Name>{name}</Name>\n    \
             <VirtualHardwareSection>\n      <Info>Virtual hardware</Info>\n      <System>\n        \
             <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>\n        <vssd:InstanceID>0</vssd:InstanceID>\n        \
             <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>\n        \
             <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>\n      </System>"
        ),
    );
    hardware(&mut text, appliance);
    let firmware = match appliance.firmware {
        Firmware::Bios => "bios",
        Firmware::Efi => "efi",
    };
    line(
        &mut text,
        format_args!(
            "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"{firmware}\"/>\n    \
             </VirtualHardwareSection>\n  </VirtualSystem>\n</Envelope>"
        ),
    );
    text
}

fn hardware(text: &mut String, appliance: &Appliance<'_>) {
    let (cpus, mebibytes) = (appliance.cpus, appliance.memory_mebibytes);
    let (cpus, mebibytes) = (cpus.to_string(), mebibytes.to_string());
    item(text, (1, CPU), "CPUs", &[("AllocationUnits", "hertz * 10^6"), ("VirtualQuantity", &cpus)]);
    item(text, (2, MEMORY), "Memory", &[("AllocationUnits", "byte * 2^20"), ("VirtualQuantity", &mebibytes)]);
    // The one controller that every hypervisor has and every guest's kernel knows.
    let kind = [("Address", "0"), ("ResourceSubType", "vmware.sata.ahci")];
    item(text, (CONTROLLER, SATA), "SATA controller", &kind);
    for (number, disk) in (0_u32..).zip(&appliance.disks) {
        let (label, address) = (escaped(disk.label), number.to_string());
        let host = format!("ovf:/disk/vmdisk{}", number.saturating_add(1));
        let instance = number.saturating_add(CONTROLLER).saturating_add(1);
        let parent = CONTROLLER.to_string();
        let fields = [("AddressOnParent", &*address), ("HostResource", &host), ("Parent", &parent)];
        item(text, (instance, DISK), &label, &fields);
    }
}

/// An item of hardware. Its elements stand in the order of the alphabet, as the schema wants it.
fn item(text: &mut String, (instance, kind): (u32, u32), name: &str, more: &[(&str, &str)]) {
    let (instance, kind) = (instance.to_string(), kind.to_string());
    let mut fields: Vec<(&str, &str)> = more.to_vec();
    fields.extend([("ElementName", name), ("InstanceID", &instance), ("ResourceType", &kind)]);
    fields.sort_unstable_by_key(|(key, _)| *key);
    text.push_str("      <Item>\n");
    for (key, value) in fields {
        line(text, format_args!("        <rasd:{key}>{value}</rasd:{key}>"));
    }
    text.push_str("      </Item>\n");
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{words}");
}

/// As text and as an attribute; what XML has no way to say is left out.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            sign if sign.is_control() || matches!(sign, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            sign => out.push(sign),
        }
    }
    out
}
