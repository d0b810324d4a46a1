"""What runs inside `Trainer.fit`: module, strategy, callbacks, loggers, loaders."""
