"""A plugin module that imports a module that does not exist."""

import a_module_that_nobody_has

BrokenImportTrainer = a_module_that_nobody_has.Trainer
