//! Secure Boot: with it the kernel loads only modules signed by a key that the machine's owner has made known.

use super::System;
use serde::Serialize;
use std::fs;

/// Whether the machine was started with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecureBoot {
    /// Signatures are asked for.
    On,
    /// They are not.
    Off,
    /// The machine does not say.
    Unknown,
}

/// The variable of the firmware: four bytes of attributes and one that is 1 or 0.
const VARIABLE: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Where DKMS keeps the key it signs with, on most systems and on Ubuntu.
const KEYS: &[&str] = &["/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der"];

impl SecureBoot {
    /// Asks the firmware, and mokutil where the firmware's variables cannot be read.
    pub fn of(system: &System) -> Self {
        if !system.at("/sys/firmware/efi").exists() {
            return Self::Off;
        }
        match fs::read(system.at(VARIABLE)).as_deref() {
            Ok([_, _, _, _, 1]) => return Self::On,
            Ok([_, _, _, _, 0]) => return Self::Off,
            _ => {}
        }
        let said = system.run(&["mokutil", "--sb-state"]).unwrap_or_default();
        if said.contains("SecureBoot enabled") {
            Self::On
        } else if said.contains("SecureBoot disabled") {
            Self::Off
        } else {
            Self::Unknown
        }
    }
}

/// Whether the module of a kernel carries a signature, whoever's.
fn is_signed(system: &System, kernel: &str) -> bool {
    // Present whether or not this modinfo can read who has signed.
    let said = system.run(&["modinfo", "-k", kernel, "-F", "sig_id", "greenboost"]);
    said.is_ok_and(|said| !said.trim().is_empty())
}

/// How the module comes to be loaded: what to type, and what the machine asks at the next start. A module that DKMS could
/// not sign wants signing first.
pub fn enrolment(system: &System) -> String {
    const WITHOUT: &str = "Until then GreenBoost works without the module.";
    let kernel = system.kernel();
    if !is_signed(system, &kernel) {
        let lacks = match system.program("openssl") {
            Some(_) => "DKMS's log (/var/lib/dkms/greenboost) says why",
            None => "DKMS signs with openssl, which is not installed (package openssl)",
        };
        return format!(
            "Secure Boot is on: the kernel loads only what is signed by a key it knows, and the module is not signed: \
             {lacks}. Then build it again, and load it:\n    sudo dkms install --force -m greenboost -v {} -k {kernel}\n    \
             sudo modprobe greenboost\n{WITHOUT}",
            env!("CARGO_PKG_VERSION")
        );
    }
    let key = KEYS.iter().find(|key| system.at(key).exists()).unwrap_or(&KEYS[0]);
    format!(
        "Secure Boot is on: the kernel loads only what is signed by a key it knows. DKMS has signed the module with its own \
         key; make that known, once:\n    sudo mokutil --import {key}    # asks for a password of your choice (package \
         mokutil)\n    sudo reboot                # the machine asks: Enroll MOK, Continue, Yes, that password\n    sudo \
         modprobe greenboost\n{WITHOUT}"
    )
}
