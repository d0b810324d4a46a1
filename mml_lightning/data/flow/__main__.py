"""``python -m mml_lightning.data.flow``: the process that :mod:`mml_lightning.data.flow.ahead` starts."""

from mml_lightning.data.flow.ahead import main

if __name__ == "__main__":
    main()
