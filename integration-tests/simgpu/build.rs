//! Gives the library the name a program links against, and binds its references to its own functions: a preloaded
//! library that defines the same names must not find its way into the driver's tables.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rerun-if-changed=build.rs");
}
