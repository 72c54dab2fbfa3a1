"""Well-known people, for a basis of the names that text encoders know."""

NAMES: tuple[str, ...] = tuple(
    name.strip()
    for name in """
    Tom Hanks, Brad Pitt, Will Smith, Johnny Depp, Tom Cruise, George Clooney, Matt Damon, Ben Affleck, Jim Carrey,
    Julia Roberts, Emma Watson, Emma Stone, Kate Winslet, Meryl Streep, Nicole Kidman, Sandra Bullock, Anne Hathaway,
    Jennifer Lawrence, Jennifer Aniston, Jennifer Lopez, Angelina Jolie, Natalie Portman, Robert Downey, Chris Evans,
    Chris Pratt, Chris Hemsworth, Ryan Gosling, Ryan Reynolds, Hugh Jackman, Hugh Grant, Christian Bale, Mark Wahlberg,
    Morgan Freeman, Samuel Jackson, Denzel Washington, Harrison Ford, Clint Eastwood, Bruce Willis, Jackie Chan,
    Bruce Lee, Sean Connery, Daniel Craig, Michael Caine, Anthony Hopkins, Gary Oldman, Kevin Spacey, Kevin Costner,
    Michael Jackson, Elton John, Paul McCartney, John Lennon, David Bowie, Bob Dylan, Elvis Presley, Freddie Mercury,
    Justin Bieber, Justin Timberlake, Taylor Swift, Katy Perry, Lady Gaga, Selena Gomez, Ariana Grande, Miley Cyrus,
    Bruno Mars, Ed Sheeran, Harry Styles, Sam Smith, Stevie Wonder, Tina Turner, Diana Ross, Whitney Houston,
    Barack Obama, Michelle Obama, Hillary Clinton, Bill Clinton, Donald Trump, Joe Biden, George Bush, Angela Merkel,
    Tony Blair, Boris Johnson, Nelson Mandela, Winston Churchill, John Kennedy, Abraham Lincoln, Martin King,
    Bill Gates, Steve Jobs, Elon Musk, Jeff Bezos, Mark Zuckerberg, Warren Buffett, Albert Einstein, Stephen Hawking,
    Michael Jordan, Magic Johnson, Kobe Bryant, Stephen Curry, Kevin Durant, Tiger Woods, Roger Federer, Rafael Nadal,
    Andy Murray, Serena Williams, Venus Williams, Maria Sharapova, David Beckham, Wayne Rooney, Lionel Messi,
    Tom Brady, Peyton Manning, Mike Tyson, Muhammad Ali, Lewis Hamilton, Michael Phelps, Usain Bolt, Simon Cowell,
    Oprah Winfrey, Ellen Page, Jimmy Fallon, Conan Brien, Gordon Ramsay, Martha Stewart, Stephen King, Neil Armstrong,
    Charlie Chaplin, Audrey Hepburn, Marilyn Monroe, Grace Kelly, James Dean, Cary Grant, Gene Kelly, Judy Garland,
    Woody Allen, Steven Spielberg, George Lucas, James Cameron, Tim Burton, Ridley Scott, Peter Jackson, Spike Lee,
    Robin Williams, Steve Martin, Eddie Murphy, Chris Rock, Adam Sandler, Ben Stiller, Owen Wilson, Jack Black,
    Kate Moss, Naomi Campbell, Heidi Klum, Tyra Banks, Kim Kardashian, Paris Hilton, Victoria Beckham, Kate Middleton
    """.replace("\n", " ").split(",")
)
