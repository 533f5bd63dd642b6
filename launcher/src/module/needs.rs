//! What DKMS needs on this machine, and what the distribution calls it.

use super::System;

/// What is missing, a line each, with the command that installs it. Empty where all is there.
pub fn missing(system: &System, kernel: &str) -> Vec<String> {
    let mut packages = Vec::new();
    let mut lines = Vec::new();
    let names = names(&system.text("/etc/os-release"));
    if system.program("dkms").is_none() {
        lines.push("    the program dkms, which builds modules for each kernel that is installed".to_owned());
        packages.push("dkms".to_owned());
    }
    if !system.at(format!("/lib/modules/{kernel}/build/Makefile")).exists() {
        lines.push(format!("    the headers of kernel {kernel} (/lib/modules/{kernel}/build)"));
        packages.push((names.headers)(kernel));
    }
    if !packages.is_empty() {
        lines.push(format!("Install it: {} {}", names.command, packages.join(" ")));
    }
    lines
}

struct Names {
    command: &'static str,
    headers: fn(&str) -> String,
}

const DISTRIBUTIONS: &[(&[&str], Names)] = &[
    (&["debian", "ubuntu"], Names { command: "sudo apt install", headers: |kernel| format!("linux-headers-{kernel}") }),
    (
        &["fedora", "rhel", "centos"],
        Names { command: "sudo dnf install", headers: |kernel| format!("kernel-devel-{kernel}") },
    ),
    (&["arch"], Names { command: "sudo pacman -S", headers: |_| "linux-headers".to_owned() }),
    (&["suse", "opensuse"], Names { command: "sudo zypper install", headers: |_| "kernel-default-devel".to_owned() }),
];

const OTHER: Names = Names {
    command: "with your system's package manager,",
    headers: |kernel| format!("and the kernel headers for {kernel}"),
};

fn names(os_release: &str) -> &'static Names {
    let ids: Vec<_> = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let known = DISTRIBUTIONS.iter().find(|(known, _)| known.iter().any(|id| ids.contains(id)));
    known.map_or(&OTHER, |(_, names)| names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_called_as_the_distribution_calls_them() {
        let called = |release: &str| (names(release).headers)("6.1.0");
        assert_eq!(called("NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), "linux-headers-6.1.0");
        assert_eq!(called("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), "kernel-devel-6.1.0");
        assert_eq!(called("ID=arch\n"), "linux-headers");
        assert_eq!(called(""), "and the kernel headers for 6.1.0");
    }
}
