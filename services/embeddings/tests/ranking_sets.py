"""Questions with a passage that answers each, and others that only share its words or its subject."""

SETS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "How long should green tea steep?",
        "Green tea turns bitter above 80 °C; two minutes in the pot are enough.",
        (
            "Green paint dries in two hours and takes a second coat after a night.",
            "Black tea is grown in Assam, Ceylon and Kenya, and is sold by auction.",
            "The teapot was a wedding present from her aunt in Bath.",
        ),
    ),
    (
        "What causes the tides in the sea?",
        "The moon's gravity pulls the ocean towards it, and twice a day the water rises and falls along the coast.",
        (
            "Sea bathing became fashionable in the eighteenth century, and resorts grew along the coast.",
            "The moon has no air, and its days last as long as a month on earth.",
            "What the sea causes to ships is rust, which paint holds off for a time.",
        ),
    ),
    (
        "Which bread needs no yeast?",
        "Soda bread rises by bicarbonate and buttermilk, so that it goes into the oven as soon as it is mixed.",
        (
            "Yeast is a fungus that eats sugar and makes alcohol and gas.",
            "A bread knife has teeth because a plain edge would crush the loaf.",
            "Bakers need to rise early: the first loaves are sold at six.",
        ),
    ),
    (
        "how do I undo the last commit in git",
        "Run git reset --soft HEAD~1: the branch goes back by one commit, and your changes stay staged.",
        (
            "A commit message has a subject of at most fifty characters and a body that says why.",
            "Git was begun in 2005, when the kernel's developers lost the licence of their former tool.",
            "To undo a change of the thermostat, hold the left button for three seconds.",
        ),
    ),
    (
        "Where do eels breed?",
        "European eels swim for thousands of miles to the Sargasso Sea to breed there, and die.",
        (
            "Jellied eels are cut in pieces, boiled in a spiced stock and left to set.",
            "Dogs breed twice a year, and a litter has about six pups.",
            "The electric eel of the Amazon is no eel but a kind of knifefish.",
        ),
    ),
    (
        "Why was the bridge closed to traffic?",
        "Inspectors found cracks in two of the bridge's cables; no car may cross until they have been replaced.",
        (
            "The tunnel under the river was dug between 1880 and 1886 and is 240 metres long.",
            "Contract bridge is played by four, two against two, with one pack of cards.",
            "The museum is closed on Mondays, and on the first day of the year.",
        ),
    ),
    (
        "What is the boiling point of water on a mountain?",
        "At 3,000 metres above the sea water boils at about 90 degrees, since the air presses less.",
        (
            "Mountain water is sold in bottles, at a price that has nothing to do with its source.",
            "What is the point of climbing a mountain? Because it's there, said Mallory.",
            "Oil has a higher boiling point than water, and lead a higher one than oil.",
        ),
    ),
    (
        "How can I keep deer out of the garden?",
        "A fence of two metres keeps deer away from the beds; lower ones they jump.",
        (
            "Deer lose their antlers each winter and grow new ones by the summer.",
            "Keep the garden hose out of the frost: water left in it bursts the wall.",
            "A garden is kept in order by an hour's work a day, from March to October.",
        ),
    ),
    (
        "Who invented the printing press with movable type in Europe?",
        "Johannes Gutenberg of Mainz was the first European to print with movable letters of metal, about 1450.",
        (
            "The press in Europe covered the match at length and blamed the goalkeeper.",
            "Type 2 diabetes is treated by diet first, and by tablets where that is not enough.",
            "Printing on cloth was known in Egypt a thousand years before it was done on paper.",
        ),
    ),
    (
        "What should I do when the engine overheats?",
        "Stop, switch it off and wait half an hour before you open the radiator's cap; then fill up with coolant.",
        (
            "The engine has four cylinders, 1.6 litres and 90 horse power.",
            "What I should like to do on holiday is nothing, in the shade, when it is hot.",
            "A search engine finds pages by their words and ranks them by their links.",
        ),
    ),
    (
        "side effects of too much coffee",
        "More than four cups a day make many people sleepless and shaky, and the heart may race.",
        (
            "Coffee came to Vienna with the Turks, and the first house that sold it opened in 1685.",
            "Too much rain had fallen, and the side of the hill slid into the valley.",
            "The coffee table has a top of glass and four legs of oak.",
        ),
    ),
    (
        "When does the library lend books for longer than a month?",
        "In the summer holidays readers may borrow books from July until the end of September.",
        (
            "The library of Alexandria burnt more than once, and nobody knows how many scrolls it had.",
            "Books of more than a month's reading are rare; most novels take a week.",
            "The shared library is loaded by the linker when the program starts.",
        ),
    ),
)
