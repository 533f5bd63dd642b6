//! The extern "C" edge: where C arguments become typed, and every panic and error becomes a `CUresult`.
//!
//! `driver!` declares functions of the driver. From one declaration come the exported symbol, its
//! per-thread-stream form, a *twin* (the same function at another address, for callers that must not rely on
//! `cuGetProcAddress` and `dlsym` agreeing) and the row of the table `cuGetProcAddress` answers from.
//!
//! The word in brackets says what must hold before the body runs:
//! `any` nothing, `init` after `cuInit`, `ctx` a healthy current context, `quiet` the same and no stream
//! capture that forbids calls with effects outside the capture.

pub use crate::arguments::{In, Out, Shown, Text};
use crate::capture;
use crate::context::{self, Context};
use crate::env::options;
use crate::errors::{Error, Result};
pub use crate::stream::Form;
use crate::stream::Stream;
use crate::trace;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// What must hold before a function does anything.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    any,
    /// `cuInit` was called.
    init,
    /// A current context without a sticky error.
    ctx,
    /// As `ctx`, and no capture forbids it.
    quiet,
}

/// One row of the table of entry points.
pub struct Entry {
    /// The name callers ask `cuGetProcAddress` for.
    pub base: &'static str,
    /// The exported symbol.
    pub symbol: &'static str,
    /// The first CUDA version with this form.
    pub since: i32,
    /// What its zero stream means.
    pub form: Form,
    /// Address of the exported symbol.
    pub address: usize,
    /// The same function at another address.
    pub twin: usize,
}

/// What a function body knows about its call.
pub struct Call {
    form: Form,
}

impl Call {
    /// The current context.
    pub fn context(&self) -> Result<Arc<Context>> {
        context::current().ok_or(Error::INVALID_CONTEXT)
    }

    /// The stream a handle means to this call.
    pub fn stream(&self, handle: usize) -> Result<Arc<Stream>> {
        crate::stream::resolve(&self.context()?, handle, self.form)
    }

    /// The default stream of this call's form.
    pub fn default_stream(&self) -> Result<Arc<Stream>> {
        self.stream(0)
    }
}

/// Runs one call of the driver.
pub fn enter(
    base: &'static str,
    symbol: &'static str,
    needs: Needs,
    form: Form,
    arguments: impl Fn() -> String,
    body: impl FnOnce(&Call) -> Result,
) -> u32 {
    // Before anything else, and without taking a lock: after a fork another thread's lock may be held for ever.
    if crate::driver::forked() {
        return Error::NOT_INITIALIZED.0;
    }
    let call = Call { form };
    let result = catch_unwind(AssertUnwindSafe(|| {
        check(needs)?;
        injected_failure(base, symbol)?;
        body(&call)
    }));
    let code = match result {
        Ok(Ok(())) => 0,
        Ok(Err(Error(code))) => code,
        Err(_) => Error::UNKNOWN.0,
    };
    trace::call(symbol, arguments, code);
    code
}

fn check(needs: Needs) -> Result {
    if needs == Needs::any {
        return Ok(());
    }
    if !crate::driver::initialized() {
        return Err(Error::NOT_INITIALIZED);
    }
    if needs == Needs::init {
        return Ok(());
    }
    if crate::work::in_callback() {
        return Err(Error::NOT_PERMITTED);
    }
    let context = context::current().ok_or(Error::INVALID_CONTEXT)?;
    context.healthy()?;
    if needs == Needs::quiet {
        capture::forbid_unsafe()?;
    }
    Ok(())
}

fn injected_failure(base: &str, symbol: &str) -> Result {
    static COUNTS: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);
    let failures = &options().failures;
    if failures.is_empty() {
        return Ok(());
    }
    for name in [Some(symbol), (base != symbol).then_some(base)].into_iter().flatten() {
        let Some(planned) = failures.get(name) else { continue };
        let mut counts = COUNTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = counts.get_or_insert_default().entry(name.to_string()).or_default();
        *count += 1;
        if let Some(failure) = planned.iter().find(|failure| failure.nth == *count) {
            return if failure.code == 0 { Ok(()) } else { Err(Error(failure.code)) };
        }
    }
    Ok(())
}

/// Declares functions of the driver, see the module's documentation.
macro_rules! driver {
    ($(
        $(#[$meta:meta])*
        [$needs:ident] $base:literal $since:literal $name:ident $(| $since_pt:literal $name_pt:ident)?
        ($($args:tt)*) $body:block
    )*) => {
        #[allow(non_snake_case, clippy::too_many_arguments)]
        mod body {
            use super::*;
            $($crate::edge::driver_body! { $(#[$meta])* $name ($($args)*) $body })*
        }
        $(
            $crate::edge::driver_edge! { [exported] [$needs] $base [$name] $name Legacy ($($args)*) }
            $crate::edge::driver_edge! { [exported] [$needs] $base [$($name_pt)?] $name PerThread ($($args)*) }
        )*
        /// The same functions at other addresses.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        mod twin {
            use super::*;
            $(
                $crate::edge::driver_edge! { [twin] [$needs] $base [$name] $name Legacy ($($args)*) }
                $crate::edge::driver_edge! { [twin] [$needs] $base [$($name_pt)?] $name PerThread ($($args)*) }
            )*
        }
        /// The rows of this file in the table of entry points.
        pub fn entries() -> Vec<$crate::edge::Entry> {
            vec![$(
                $crate::edge::Entry {
                    base: $base,
                    symbol: stringify!($name),
                    since: $since,
                    form: $crate::edge::Form::Legacy,
                    address: $name as *const () as usize,
                    twin: twin::$name as *const () as usize,
                },
                $($crate::edge::Entry {
                    base: $base,
                    symbol: stringify!($name_pt),
                    since: $since_pt,
                    form: $crate::edge::Form::PerThread,
                    address: $name_pt as *const () as usize,
                    twin: twin::$name_pt as *const () as usize,
                },)?
            )*]
        }
    };
}
pub(crate) use driver;

macro_rules! driver_body {
    ($(#[$meta:meta])* $name:ident ($call:ident $(, $arg:ident : $ty:ty)* $(,)?) $body:block) => {
        $(#[$meta])*
        pub(super) fn $name($call: &$crate::edge::Call $(, $arg: $ty)*) -> $crate::errors::Result $body
    };
}
pub(crate) use driver_body;

macro_rules! driver_edge {
    ($kind:tt [$needs:ident] $base:literal [] $inner:ident $form:ident $args:tt) => {};
    ([exported] [$needs:ident] $base:literal [$name:ident] $inner:ident $form:ident $args:tt) => {
        $crate::edge::driver_edge! {
            @ #[unsafe(no_mangle)] [$needs] $base $name $inner (stringify!($name)) $form $args
        }
    };
    ([twin] [$needs:ident] $base:literal [$name:ident] $inner:ident $form:ident $args:tt) => {
        $crate::edge::driver_edge! {
            @ #[inline(never)] [$needs] $base $name $inner (concat!(stringify!($name), "@twin")) $form $args
        }
    };
    (@ #[$attr:meta] [$needs:ident] $base:literal $name:ident $inner:ident ($symbol:expr) $form:ident
     ($call:ident $(, $arg:ident : $ty:ty)* $(,)?)) => {
        #[doc = concat!("The driver's `", stringify!($name), "`.")]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        #[$attr]
        pub extern "C" fn $name($($arg: $ty),*) -> u32 {
            $crate::edge::enter(
                $base,
                $symbol,
                $crate::edge::Needs::$needs,
                $crate::edge::Form::$form,
                || Vec::<String>::from([$($crate::edge::Shown::shown(&$arg)),*]).join(", "),
                |call| body::$inner(call $(, $arg)*),
            )
        }
    };
}
pub(crate) use driver_edge;
