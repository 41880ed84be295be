"""The built-in plugins. They use what a third party may use: `cryomamba_core`."""
