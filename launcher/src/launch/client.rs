//! Programs that only ask another one to start the command: in a container, on another machine, for another user. What
//! gb-launch sets never reaches it, so they are refused, with the order that works.

/// A kind of client.
struct Row {
    names: &'static [&'static str],
    /// What becomes of the command.
    what: &'static str,
    /// What to type instead.
    order: &'static str,
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { names: &["sudo", "doas", "su", "pkexec", "runuser", "run0"], what: "starts its command as another user, without LD_PRELOAD",
          order: "put gb-launch behind it: `sudo gb-launch COMMAND`" },
    Row { names: &["docker", "podman", "nerdctl", "docker-compose", "podman-compose", "ctr", "crictl", "buildah", "podman-remote"],
          what: "is only a client: the container starts elsewhere, with an environment of its own",
          order: "start gb-launch inside it: `docker run --gpus all -v /usr/lib/greenboost:/usr/lib/greenboost IMAGE /usr/lib/greenboost/gb-launch COMMAND`, with the folder that GreenBoost is in" },
    Row { names: &["kubectl", "oc", "helm", "k3s"], what: "is only a client: the pod starts elsewhere, with an environment of its own",
          order: "put gb-launch into the pod's command, with GreenBoost's folder mounted: `command: [\"/usr/lib/greenboost/gb-launch\", \"COMMAND\"]`" },
    Row { names: &["apptainer", "singularity", "enroot", "lxc", "lxc-attach", "lxc-execute", "incus", "distrobox", "toolbox", "machinectl", "systemd-nspawn", "bwrap", "chroot"],
          what: "starts its command in another file system, where the library that gb-launch names does not exist",
          order: "start gb-launch inside it, with GreenBoost's folder mounted: `apptainer exec --nv --bind /usr/lib/greenboost IMAGE /usr/lib/greenboost/gb-launch COMMAND`" },
    Row { names: &["flatpak"], what: "starts its command in a sandbox, with an environment and files of its own",
          order: "start gb-launch inside it: `flatpak run --filesystem=/usr/lib/greenboost --command=/usr/lib/greenboost/gb-launch APP COMMAND`" },
    Row { names: &["snap", "snap-confine"], what: "starts its command in a sandbox, which takes no library from outside",
          order: "install the program without snap, then `gb-launch COMMAND`" },
    Row { names: &["systemd-run", "systemctl", "service", "initctl"], what: "is only a client: systemd starts the command, with an environment of its own",
          order: "put gb-launch behind it: `systemd-run gb-launch COMMAND`, or into ExecStart= of the service" },
    Row { names: &["ssh", "mosh", "rsh", "pdsh", "dbclient"], what: "starts its command on another machine",
          order: "put gb-launch behind it: `ssh HOST gb-launch COMMAND`" },
    Row { names: &["srun", "sbatch", "salloc", "qsub", "bsub", "flux"], what: "is only a client: the scheduler starts the command, perhaps on another machine",
          order: "put gb-launch behind it: `srun gb-launch COMMAND`" },
    Row { names: &["tmux", "screen"], what: "asks its server, which may run already, to start the command",
          order: "start gb-launch inside it: `tmux new gb-launch COMMAND`" },
];

/// Why a program with one of these names would not get anything from gb-launch to what it starts.
pub fn objection(names: &[String]) -> Option<String> {
    let (name, row) =
        names.iter().find_map(|name| Some((name, ROWS.iter().find(|row| row.names.contains(&name.as_str()))?)))?;
    Some(format!("`{name}` {}.\nInstead, {}.", row.what, row.order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_refused_with_the_order_that_works_and_programs_are_not() {
        let of = |name: &str| objection(&["x".to_owned(), name.to_owned()]);
        for name in ["docker", "podman", "nerdctl", "kubectl", "flatpak", "snap", "systemd-run", "ssh", "sudo"] {
            let said = of(name).expect(name);
            assert!(said.starts_with(&format!("`{name}` ")) && said.contains("Instead, "), "{said}");
            assert!(said.contains("gb-launch"), "{said}");
        }
        assert!(of("sudo").expect("sudo").contains("sudo gb-launch"));
        for name in ["llama-server", "ollama", "python3", "sudoku", "docker-llama", "bash"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
