//! The shims of the layers that patch, made from the table. The exported ones are where the exports are.

use crate::slot::Shims;

macro_rules! shims {
    (
        driver $driver:tt
        $(called $section:ident of $owner:ident $called:tt)+
        loader { $($part:ident :: $decide:ident [$loader:ident @ $glibc:literal] $args:tt if $when:expr;)+ }
    ) => {
        shims!(@layer code crate::inject::layers::CODE, $($part :: $decide $loader)+);
        shims!(@layer got crate::inject::layers::GOT, $($part :: $decide $loader)+);

        /// All of them.
        pub static SHIMS: Shims = Shims { code: [$(code::$loader),+], got: [$(got::$loader),+] };
    };
    (@layer $layer:ident $via:expr, $($part:ident :: $decide:ident $loader:ident)+) => {
        #[doc = concat!("Shims of the ", stringify!($layer), " layer.")]
        mod $layer {
            use crate::inject::{lookup, open};
            $(crate::shim!(#[doc = concat!("Replaces `", stringify!($loader), "`.")] $loader, $part::$decide, $via);)+
        }
    };
}
crate::functions!(shims);
