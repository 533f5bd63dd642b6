//! Where a kernel's parameters are, from the driver's own query, remembered for each function.

use super::rules;
use crate::abi::{CUfunction, SUCCESS, Status};
use crate::real;
use crate::slot::Library;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

/// A kernel's parameters and name.
#[derive(Debug, Default)]
pub struct Layout {
    /// Offset in the packed form and bytes of each parameter, in order.
    pub params: Vec<(usize, usize)>,
    /// Which rules its mangled name fits; a kernel whose name the driver does not tell fits those for all.
    pub rules: rules::Mask,
}

type ParamInfo = unsafe extern "C" fn(CUfunction, usize, *mut usize, *mut usize) -> Status;
type GetName = unsafe extern "C" fn(*mut *const c_char, CUfunction) -> Status;

struct Queries {
    /// CUDA 12.4.
    param_info: ParamInfo,
    /// CUDA 12.3.
    name: Option<GetName>,
}

fn queries() -> Option<&'static Queries> {
    static QUERIES: OnceLock<Option<Queries>> = OnceLock::new();
    QUERIES
        .get_or_init(|| {
            let param_info = real::symbol(Library::Cuda, c"cuFuncGetParamInfo");
            let name = real::symbol(Library::Cuda, c"cuFuncGetName");
            // SAFETY: the driver exports these symbols with these ABIs.
            (!param_info.is_null()).then(|| unsafe {
                Queries {
                    param_info: std::mem::transmute::<*const c_void, ParamInfo>(param_info),
                    name: (!name.is_null()).then(|| std::mem::transmute::<*const c_void, GetName>(name)),
                }
            })
        })
        .as_ref()
}

/// Whether the driver can tell layouts at all (12.4 and newer).
pub fn is_known() -> bool {
    queries().is_some()
}

/// Counts what makes handles come back with another meaning: modules that go.
static GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static KNOWN: RefCell<(u64, HashMap<usize, Rc<Layout>>)> = RefCell::default();
}

/// The layout of a function.
pub fn of(function: CUfunction) -> Rc<Layout> {
    let now = GENERATION.load(Acquire);
    let known =
        KNOWN.with_borrow(|(of, known)| (*of == now).then(|| known.get(&(function as usize)).cloned()).flatten());
    known.unwrap_or_else(|| {
        let layout = Rc::new(ask(function));
        KNOWN.with_borrow_mut(|(of, known)| {
            if *of != now {
                known.clear();
                *of = now;
            }
            known.insert(function as usize, layout.clone());
        });
        layout
    })
}

/// Forgets all layouts: a module is going, and its functions' handles may come back as others.
pub fn forget() {
    GENERATION.fetch_add(1, AcqRel);
}

fn ask(function: CUfunction) -> Layout {
    let Some(queries) = queries() else { return Layout::default() };
    let mut layout = Layout { params: Vec::new(), rules: rules::of_kernel("") };
    let (mut offset, mut bytes) = (0, 0);
    // SAFETY: the program's own function; results go to live locals. An index too far ends the list.
    while unsafe { (queries.param_info)(function, layout.params.len(), &mut offset, &mut bytes) } == SUCCESS {
        layout.params.push((offset, bytes));
    }
    let mut name = std::ptr::null();
    if let Some(get_name) = queries.name
        // SAFETY: as above; the name lives as long as the function.
        && unsafe { get_name(&mut name, function) } == SUCCESS
        && !name.is_null()
    {
        // SAFETY: the driver wrote a C string's address.
        layout.rules = rules::of_kernel(&unsafe { CStr::from_ptr(name) }.to_string_lossy());
    }
    layout
}
