//! glibc's dynamic loader, which bundles bring and start their program with: `ld-linux-x86-64.so.2 PROGRAM`. Such a process
//! is its program's, though its executable is the loader.

/// Whether this is the name of glibc's loader. Another C library's takes no library that was built for glibc.
pub fn is_loader(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("ld").filter(|rest| !rest.starts_with("-musl")) else { return false };
    let is_kind = ["-linux", ".so", "64.so"].iter().any(|start| rest.starts_with(start));
    (is_kind && rest.contains(".so")) || (rest.starts_with("-2.") && rest.ends_with(".so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_known_by_name() {
        for name in
            ["ld-linux-x86-64.so.2", "ld-linux.so.2", "ld-linux-aarch64.so.1", "ld-2.31.so", "ld.so", "ld64.so.2"]
        {
            assert!(is_loader(name), "{name}");
        }
        for name in ["ld", "ld.bfd", "ldd", "ldconfig", "ld-musl-x86_64.so.1", "ld-linux", "lld"] {
            assert!(!is_loader(name), "{name}");
        }
    }
}
