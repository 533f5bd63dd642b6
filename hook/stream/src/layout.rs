//! Where a kernel's parameters are, from the driver's own query, remembered for each function.

use super::rules::{self, Rules};
use super::signature;
use super::spread::Spread;
use greenboost_cuda::abi::{CUfunction, SUCCESS, Status};
use greenboost_intercept::real;
use greenboost_intercept::slot::Library;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

/// A kernel's parameters and name.
#[derive(Debug, Default)]
pub struct Layout {
    /// Offset in the packed form and bytes of each parameter, in order.
    pub params: Vec<(usize, usize)>,
    /// Which rules its mangled name fits; a kernel whose name the driver does not tell fits those for all.
    pub rules: rules::Mask,
    /// The parameters through which it may write: what they name is not copied, and copies of it are given up.
    pub written: signature::Params,
    /// Its mangled name; empty when the driver does not tell it.
    pub name: Arc<str>,
}

type ParamInfo = unsafe extern "C" fn(CUfunction, usize, *mut usize, *mut usize) -> Status;
type GetName = unsafe extern "C" fn(*mut *const c_char, CUfunction) -> Status;

/// The questions about one kind of handle.
struct Queries {
    /// CUDA 12.4.
    param_info: ParamInfo,
    /// CUDA 12.3.
    name: Option<GetName>,
}

/// What a launch may name: a function of a module, or a kernel of a library, which is what the CUDA runtime launches. Neither
/// kind's questions take the other's handles.
const KINDS: [(&CStr, &CStr); 2] =
    [(c"cuFuncGetParamInfo", c"cuFuncGetName"), (c"cuKernelGetParamInfo", c"cuKernelGetName")];

/// What can be asked of the driver, and what its answers are worth still.
pub struct Layouts {
    queries: Vec<Queries>,
    /// Counts what makes handles come back with another meaning: modules that go.
    generation: AtomicU64,
}

type Known = HashMap<u64, Rc<Layout>, BuildHasherDefault<Spread>>;

thread_local! {
    /// What this thread has asked for, in which generation. There is one [`Layouts`] in a process.
    static KNOWN: RefCell<(u64, Known)> = RefCell::default();
}

impl Default for Layouts {
    fn default() -> Self {
        Self::new()
    }
}

impl Layouts {
    /// Looks for the driver's queries, which takes the loader's lock.
    pub fn new() -> Self {
        let queries = KINDS.iter().filter_map(|(param_info, name)| {
            let (param_info, name) = (real::symbol(Library::Cuda, param_info), real::symbol(Library::Cuda, name));
            // SAFETY: the driver exports these symbols with these ABIs.
            (!param_info.is_null()).then(|| unsafe {
                Queries {
                    param_info: std::mem::transmute::<*const c_void, ParamInfo>(param_info),
                    name: (!name.is_null()).then(|| std::mem::transmute::<*const c_void, GetName>(name)),
                }
            })
        });
        Self { queries: queries.collect(), generation: AtomicU64::new(0) }
    }

    /// Whether the driver can tell layouts at all (12.4 and newer).
    pub fn is_known(&self) -> bool {
        !self.queries.is_empty()
    }

    /// The layout of a function.
    pub fn of(&self, rules: &Rules, function: CUfunction) -> Rc<Layout> {
        let now = self.generation.load(Acquire);
        let known =
            KNOWN.with_borrow(|(of, known)| (*of == now).then(|| known.get(&(function as u64)).cloned()).flatten());
        known.unwrap_or_else(|| {
            let layout = Rc::new(self.ask(rules, function));
            KNOWN.with_borrow_mut(|(of, known)| {
                if *of != now {
                    known.clear();
                    *of = now;
                }
                known.insert(function as u64, layout.clone());
            });
            layout
        })
    }

    /// Forgets all layouts: a module is going, and its functions' handles may come back as others.
    pub fn forget(&self) {
        self.generation.fetch_add(1, AcqRel);
    }

    fn ask(&self, rules: &Rules, function: CUfunction) -> Layout {
        let unknown = Layout { rules: rules.of_kernel(""), ..Layout::default() };
        let layout = self.queries.iter().find_map(|queries| queries.ask(rules, function)).unwrap_or(unknown);
        log::debug!("kernel {function:p}: {} parameters, rules {:#b}", layout.params.len(), layout.rules);
        layout
    }
}

impl Layout {
    /// Whether the kernel may write to what a parameter names.
    pub fn may_write(&self, number: usize) -> bool {
        u32::try_from(number).is_ok_and(|number| self.written.checked_shr(number).unwrap_or(0) & 1 != 0)
    }
}

impl Queries {
    /// `None` when a function has no parameters, or is none of this kind.
    fn ask(&self, rules: &Rules, function: CUfunction) -> Option<Layout> {
        let mut params = Vec::new();
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: the program's own handle; results go to live locals. An index too far ends the list.
        while unsafe { (self.param_info)(function, params.len(), &mut offset, &mut bytes) } == SUCCESS {
            params.push((offset, bytes));
        }
        if params.is_empty() {
            return None;
        }
        let mut name = std::ptr::null();
        let name = match self.name {
            // SAFETY: as above; the name lives as long as the function.
            Some(get_name) if unsafe { get_name(&mut name, function) } == SUCCESS && !name.is_null() => {
                // SAFETY: the driver wrote a C string's address.
                unsafe { CStr::from_ptr(name) }.to_string_lossy()
            }
            _ => "".into(),
        };
        let fits = rules.of_kernel(&name);
        let written = signature::written(&name, params.len());
        Some(Layout { params, rules: fits, written, name: name.into() })
    }
}
