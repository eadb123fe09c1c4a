from imgsubset.cli import main

main()
