//! `[[place]]`: where the tensors of a model should be.

use crate::read::{Result, Table, Value};
use crate::schema;
use greenboost_contract::place::{DEFAULT_PRIORITY, MAX_PRIORITY, PlaceRule, Tier, parse_layers};

/// The rules of a file, in its order.
pub fn read(top: &Table<'_>) -> Result<Vec<PlaceRule>> {
    top.rules("place", schema::PLACE, rule)
}

fn rule(table: &Table<'_>, at: usize) -> Result<PlaceRule> {
    let Some(tensor) = table.expression("tensor")? else {
        let problem = "place.tensor is missing: give [[place]] a regular expression on tensor names, such as \
                       tensor = '_exps\\.'";
        return Err(table.reader.refuse(at, problem.to_owned()));
    };
    Ok(PlaceRule {
        tensor: tensor.value,
        layers: layers(table)?,
        at_least: table.size("at_least", |_| true, "")?.unwrap_or(0),
        tier: table.one_of("tier", Tier::from_name, Tier::NAMES)?.unwrap_or_default(),
        priority: priority(table)?,
    })
}

fn layers(table: &Table<'_>) -> Result<Option<(u32, u32)>> {
    let Some(value) = table.get("layers") else { return Ok(None) };
    let layers = match whole_number(value) {
        Some(number) => u32::try_from(number).ok().map(|number| (number, number)),
        None => value.get_ref().as_str().and_then(parse_layers),
    };
    let hint = "must be a layer, such as 7, or the first and the last, such as \"0-15\"";
    layers.map(Some).ok_or_else(|| table.refuse("layers", value, hint))
}

fn priority(table: &Table<'_>) -> Result<u8> {
    let Some(value) = table.get("priority") else { return Ok(DEFAULT_PRIORITY) };
    let priority = whole_number(value).and_then(|number| u8::try_from(number).ok());
    priority.filter(|priority| *priority <= MAX_PRIORITY).ok_or_else(|| {
        table.refuse("priority", value, "must be a whole number from 0 (leaves VRAM first) to 100 (leaves it last)")
    })
}

fn whole_number(value: &Value<'_>) -> Option<i64> {
    let number = value.get_ref().as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}
