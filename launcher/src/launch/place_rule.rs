//! Placement rules of the command line.

use greenboost_contract::place::PlaceRule;
use greenboost_profiles::pattern;

/// A rule of the command line.
pub fn place_rule(text: &str) -> Result<PlaceRule, String> {
    let rule = PlaceRule::from_argument(text).map_err(|error| error.to_string())?;
    pattern::compile(&rule.tensor)
        .map_err(|reason| format!("'{}' is not a regular expression: {reason}", rule.tensor))?;
    Ok(rule)
}
