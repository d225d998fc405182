// A module that throws while it is loaded, for the message about it.
// Nothing comes after the error.
throw new Error('not today');
